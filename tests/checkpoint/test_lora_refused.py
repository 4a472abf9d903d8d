"""Adapters that cannot be merged exactly are refused, with the reason and what to do."""

from __future__ import annotations

import os
import shutil
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from g3n_compiler.checkpoint.chat_template import GEMMA
from g3n_compiler.checkpoint.lora import CONFIG, WEIGHTS, LoraAdapter, adapter_advice, require_adapter
from g3n_compiler.checkpoint.lora_text import require_same_text
from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.errors import CheckpointError, NotFinite
from g3n_compiler.models.gemma3n.text_config import load_text_config
from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.source import Source
from tests.checkpoint.adapters import ATTENTION, PREFIX, edit_config, edit_tensors, write_adapter
from tests.conftest import TinyModel, make_tiny

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
TIED = "same tensor in a Gemma 3n"
PREFIXES = ("model.language_model.", "model.", "")


@pytest.fixture
def plain(tiny: TinyModel, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a plain adapter, to be broken."""
    made = tmp_path_factory.getbasetemp() / "plain-adapter"
    if not made.exists():
        write_adapter(tiny.hf, made, target_modules=["q_proj"])
    return Path(shutil.copytree(made, tmp_path / "adapter"))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"bias": "all"}, "biases"),
        ({"lora_bias": True}, "lora_bias"),
        ({"r": 0}, "rank 0"),
        ({"modules_to_save": ["lm_head"]}, "'lm_head' in modules_to_save"),
        ({"modules_to_save": ["norm"]}, "'norm' in modules_to_save.*incomplete"),
        ({"modules_to_save": "norm"}, "no usable modules_to_save"),
        ({"init_lora_weights": "pissa"}, "'pissa' had changed.*path_initial_model"),
        ({"init_lora_weights": "pissa_niter_16"}, "'pissa_niter_16' had changed"),
        ({"init_lora_weights": "olora"}, "'olora' had changed"),
        ({"init_lora_weights": "corda"}, "'corda' had changed"),
        ({"init_lora_weights": "lora_ga"}, "'lora_ga' had changed"),
        ({"init_lora_weights": "loftq"}, "'loftq' had changed.*very weights"),
        ({"init_lora_weights": "of next year"}, "'of next year' had changed"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens.*train a plain LoRA"),
        ({"arrow_config": {"top_k": 3}}, "arrow_config"),
        ({"layer_replication": [[0, 4]]}, "layer_replication"),
        ({"use_qalora": True}, "use_qalora"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora"),
        ({"kasa_config": {"beta": 1.0}}, "kasa_config"),
        ({"velora_config": {"num_groups": 4}}, "velora_config"),
        ({"monteclora_config": {"num_samples": 8}}, "monteclora_config"),
        ({"megatron_config": {"a": 1}}, "megatron_config"),
        ({"a_setting_of_next_year": True}, "a_setting_of_next_year, which is not known"),
        ({"target_parameters": ["mlp.experts"]}, "target_parameters with 'mlp.experts'"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices of the input embedding.*incomplete"),
        ({"trainable_token_indices": [1, 1]}, "a token twice"),
        ({"trainable_token_indices": [-1]}, "no usable trainable_token_indices"),
        ({"trainable_token_indices": 5}, "no usable trainable_token_indices"),
        ({"rank_pattern": {"q_proj": 8}}, "has rank 4, but .* says 8"),
        ({"rank_pattern": {"q_proj": 4.0}}, "no usable rank_pattern"),
        ({"rank_pattern": [1]}, "no usable rank_pattern"),
        ({"alpha_pattern": {"q_proj": "8"}}, "no usable alpha_pattern"),
        ({"alpha_pattern": {"q_proj": 1, "0.self_attn.q_proj": 2}}, "two values for 'model.layers.0.self_attn.q_proj'"),
        ({"alpha_pattern": {"q_proj": 1e9}}, "has lora_alpha 1000000000.0 for rank 4"),
        ({"alpha_pattern": {"(": 8}}, r"alpha_pattern with '\(', which ends in the middle"),
        ({"alpha_pattern": {"(?=q)q_proj": 8}}, r"alpha_pattern with '\(\?=q\)q_proj', which uses a group"),
        ({"r": 10**9}, "rank 1000000000"),
        ({"r": 8}, "has rank 4, but"),
        ({"r": "4"}, "no usable r"),
        ({"r": True}, "no usable r"),
        ({"lora_alpha": 10**400}, "has lora_alpha 1000"),
        ({"lora_alpha": "8"}, "no usable r and lora_alpha"),
        ({"lora_alpha": float("nan")}, "NaN is not a JSON number"),
        ({"use_rslora": [1]}, "no usable use_rslora"),
        ({"peft_type": ["LORA"]}, "expected LORA"),
    ],
)
def test_settings(change: dict[str, object], match: str, tiny: TinyModel, plain: Path) -> None:
    edit_config(plain, **change)
    with pytest.raises(CheckpointError, match=match):
        tiny.open().adapted(plain)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"target_modules": ["embed_tokens"]}, f"adapts embed_tokens but not lm_head, which is the {TIED}"),
        ({"target_modules": ["lm_head"]}, f"adapts lm_head but not embed_tokens, which is the {TIED}"),
        ({"target_modules": ["embed_tokens"], "ensure_weight_tying": True}, "PEFT's merge would add both"),
        ({"modules_to_save": ["embed_tokens"]}, f"modules_to_save and lm_head is not, which is the {TIED}"),
        ({"modules_to_save": ["lm_head"]}, f"a head apart from embed_tokens, which is the {TIED}"),
        ({"modules_to_save": ["lm_head", "embed_tokens"]}, f"differ, but are the {TIED}"),
        ({"trainable_token_indices": {"embed_tokens": [1, 2], "lm_head": [1, 3]}}, "holds rows of lm_head apart"),
        ({"use_dora": True}, "scaled by magnitudes"),
    ],
)
def test_what_peft_writes(options: dict[str, Any], match: str, tiny: TinyModel, tmp_path: Path) -> None:
    write_adapter(tiny.hf, tmp_path, **{"target_modules": ATTENTION, **options})
    with pytest.raises(CheckpointError, match=match):
        tiny.open().adapted(tmp_path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda n, v: (n, torch.empty(0)), "saved from a sharded model.*without gathering"),
        (lambda n, v: (n, v.flatten()), "saved from a sharded model"),
        (lambda n, v: None if "0.self_attn.q_proj.lora_B" in n else (n, v), "has no partner"),
        (
            lambda n, v: (n.replace("lora_A.w", "lora_A.one.w").replace("lora_B.w", "lora_B.two.w"), v),
            "several adapters",
        ),
        (lambda n, v: (n.replace("lora_A.w", "lora_A.one.w"), v), "several adapters .*no name"),
        (lambda n, v: (n.replace("layers.1.", "experts.1."), v), "adapts no tensor of the checkpoint"),
        (lambda n, v: (n.replace(PREFIX, PREFIX + "module."), v), "prefix 'module.' of a wrapper"),
        (
            lambda n, v: (n.replace("model.layers.0", "model.audio_tower.conformer.0"), v),
            "adapts the audio_tower, which",
        ),
        (lambda n, v: (n.replace("q_proj.lora", "q_proj.base_layer.lora"), v), "one of two adapters"),
        (lambda n, v: (n, v[:, :-1]) if "lora_A" in n else (n, v), "do not fit"),
        (
            lambda n, v: (n.replace("0.self_attn.q_proj.lora_", "0.other_"), v),
            "tensors that are not LoRA",
        ),
        (lambda n, v: (n, v.clone().fill_(float("nan"))), "holds a NaN"),
        (lambda n, v: None, "holds no LoRA tensors"),
    ],
)
def test_tensors(change: Any, match: str, tiny: TinyModel, plain: Path) -> None:
    edit_tensors(plain, change)
    with pytest.raises((CheckpointError, NotFinite), match=match):
        tiny.open().adapted(plain)


def test_one_tensor_under_two_names(tiny: TinyModel, plain: Path) -> None:
    tensors = load_file(plain / WEIGHTS)
    for old, new, match in (
        (PREFIX, "", "are the same tensor of the adapter"),
        ("model.layers", "language_model.layers", r"both adapt 'model\.layers\.0\.self_attn\.q_proj\.weight'"),
    ):
        again = {name.replace(old, new): value.clone() for name, value in tensors.items()}
        save_file(tensors | again, plain / WEIGHTS)
        with pytest.raises(CheckpointError, match=match):
            tiny.open().adapted(plain)


def test_patterns_of_names_that_were_changed_later(tiny: TinyModel, plain: Path) -> None:
    """Whether the patterns mean the old names or the new is not known."""
    edit_tensors(plain, lambda n, v: (n.replace(f"{PREFIX}model.", f"{PREFIX}language_model.model."), v))
    edit_config(plain, alpha_pattern={"language_model.model.layers.1.self_attn.q_proj": 8})
    with pytest.raises(CheckpointError, match=r"other values than 'model\.layers.1\.self_attn\.q_proj'"):
        tiny.open().adapted(plain)
    edit_config(plain, alpha_pattern={"layers.1.self_attn.q_proj": 8})
    assert tiny.open().adapted(plain).adapter


def test_convolutions_in_groups(tmp_path: Path) -> None:
    from transformers import Gemma3nForConditionalGeneration

    nano = Gemma3nForConditionalGeneration.from_pretrained(checkpoint_dir(), dtype=torch.float32)
    write_adapter(nano, tmp_path, r=16, target_modules=r".*blocks\.0\.0\.dw_start\.conv|.*blocks\.1\.0\.dw_start\.conv")
    with pytest.raises(CheckpointError, match="a convolution in groups, which PEFT cannot merge either"):
        Source.open(checkpoint_dir()).adapted(tmp_path)


def test_an_adapter_of_another_model(tmp_path: Path) -> None:
    other = make_tiny(tmp_path / "other", hidden_size=128)
    write_adapter(other.hf, tmp_path / "adapter", target_modules=["q_proj"])
    with pytest.raises(CheckpointError, match=r"do not fit.*pass the checkpoint that the adapter was trained on"):
        make_tiny(tmp_path / "base").open().adapted(tmp_path / "adapter")


def test_a_resized_vocabulary(tiny: TinyModel, tmp_path: Path) -> None:
    larger = deepcopy(tiny.hf)
    larger.resize_token_embeddings(4360)
    write_adapter(larger, tmp_path, {"save_embedding_layers": True}, target_modules=["q_proj"])
    with pytest.raises(CheckpointError, match="whose vocabulary was not resized"):
        tiny.open().adapted(tmp_path)


def test_hostile_patterns_end_in_an_error(tiny: TinyModel, plain: Path) -> None:
    started = time.monotonic()
    for pattern in (
        "(a*)*b",
        "(((.*)*)*)*x",
        "(.|.)*(.|.)*q",
        "(a?){1000}{1000}",
        "(" * 600,
        "(((.{999}?){999}){999})*x",
    ):
        edit_config(plain, alpha_pattern={pattern: 8, **{f"(.*)*{n}": 1 for n in range(100)}})
        try:
            tiny.open().adapted(plain)
        except CheckpointError as error:
            assert "alpha_pattern with" in str(error)
    assert time.monotonic() - started < 20


def test_folders_that_hold_no_adapter(tiny: TinyModel, tmp_path: Path) -> None:
    checkpoint = tiny.open().checkpoint
    (tmp_path / "file").touch()
    for path in (tmp_path / "none", tmp_path / "file", tmp_path / "a\0b"):
        with pytest.raises(CheckpointError, match=CONFIG):
            LoraAdapter(path, checkpoint, PREFIXES)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for content in (b"[1]", b"\xff", b"[" * 100_000, b'{"r": ' + b"1" * 5000 + b"}"):
        (adapter / CONFIG).write_bytes(content)
        with pytest.raises(CheckpointError, match=CONFIG):
            LoraAdapter(adapter, checkpoint, PREFIXES)
    (adapter / CONFIG).unlink()
    os.mkfifo(adapter / CONFIG)
    with pytest.raises(CheckpointError, match="is a pipe"):
        LoraAdapter(adapter, checkpoint, PREFIXES)


def test_folders_in_the_wrong_place(tiny: TinyModel, plain: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds a checkpoint, not an adapter: pass it with --checkpoint"):
        require_adapter(tiny.directory)
    assert adapter_advice(tiny.directory) is None
    assert adapter_advice(tmp_path / "none") is None
    edit_config(plain, base_model_name_or_path="google/gemma-3n-E2B-it")
    advice = adapter_advice(plain)
    assert advice is not None
    assert "not a checkpoint: pass it with --lora" in advice
    assert '"google/gemma-3n-E2B-it"' in advice
    (plain / CONFIG).write_text("{")
    assert "pass it with --lora" in (adapter_advice(plain) or "")
    (plain / CONFIG).unlink()
    with pytest.raises(CheckpointError, match="which has it beside the weights"):
        require_adapter(plain)


def test_an_adapter_in_a_subfolder_is_named(plain: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    shutil.copytree(plain, outer / "french")
    (outer / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"its subfolders do: pass one of them with --lora \(.*/outer/french\)"):
        require_adapter(outer)


def test_pickles_and_pointers(tiny: TinyModel, plain: Path) -> None:
    torch.save({}, plain / "adapter_model.bin")
    remarks: list[str] = []
    tiny.open().adapted(plain, remarks.append)
    assert any("the first is merged" in remark for remark in remarks)
    (plain / WEIGHTS).rename(plain / "elsewhere")
    with pytest.raises(CheckpointError, match=r"is a pickle.*safe_serialization=True"):
        require_adapter(plain)
    (plain / "adapter_model.bin").unlink()
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} is missing"):
        require_adapter(plain)
    (plain / WEIGHTS).write_bytes(LFS)
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} is a git-lfs pointer.*run git lfs pull"):
        require_adapter(plain)
    (plain / CONFIG).write_bytes(LFS)
    with pytest.raises(CheckpointError, match=f"{CONFIG} is a git-lfs pointer"):
        require_adapter(plain)


@pytest.mark.parametrize(
    ("name", "old", "new", "match"),
    [
        ("chat_template.jinja", "<start_of_turn>", "<|turn>", "chat_template.jinja has a chat template that writes"),
        ("tokenizer.json", "<unused3>", "<|im_start|>", "has the token '<unused3>' as none, the checkpoint's"),
    ],
)
def test_another_template_or_tokenizer_beside_an_adapter_is_refused(
    name: str, old: str, new: str, match: str, tmp_path: Path
) -> None:
    """A trainer saves its own there, and PEFT's examples load it; a bundle gets the checkpoint's."""
    text = (checkpoint_dir() / name).read_text(encoding="utf-8")
    tokenizer = load_tokenizer(checkpoint_dir(), load_text_config(checkpoint_dir()), ("text", "vision", "audio"))
    require_same_text(tmp_path, tokenizer)
    (tmp_path / name).write_text(text, encoding="utf-8")
    require_same_text(tmp_path, tokenizer)
    (tmp_path / name).write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(CheckpointError, match=match):
        require_same_text(tmp_path, tokenizer)


def test_other_words_for_the_same_template_are_the_same(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(checkpoint_dir(), load_text_config(checkpoint_dir()))
    (tmp_path / "chat_template.jinja").write_text(GEMMA, encoding="utf-8")
    require_same_text(tmp_path, tokenizer)


def test_mlx_adapters_are_recognised(plain: Path) -> None:
    (plain / CONFIG).write_text('{"fine_tune_type": "lora", "lora_parameters": {"rank": 8}}', encoding="utf-8")
    with pytest.raises(CheckpointError, match="MLX's settings, but only PEFT's adapters are read"):
        require_adapter(plain)


def test_names_of_every_known_saver_are_mapped(tiny: TinyModel, plain: Path) -> None:
    expected = tiny.open().adapted(plain).read_relative("layers.0.self_attn.q_proj.weight")
    edit_tensors(plain, lambda n, v: (n.replace(f"{PREFIX}model.", f"{PREFIX}model.language_model.model."), v))
    assert torch.equal(tiny.open().adapted(plain).read_relative("layers.0.self_attn.q_proj.weight"), expected)
