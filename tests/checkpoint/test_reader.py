"""Folders: shards, configs, and the ledger that accounts for every tensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from g3n_compiler.checkpoint.reader import INDEX, SINGLE
from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.errors import (
    CheckpointError,
    G3nError,
    MissingShard,
    TokenizerError,
    TruncatedShard,
    UnknownTensor,
    WrongModel,
)
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.models.registry import text_weights
from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.source import Source
from g3n_compiler.tensor_account import account
from tests.conftest import TinyModel, make_tiny

Edit = Callable[[Path, Callable[[dict[str, Any]], None]], None]
TEXT = ("text",)


def change_tensors(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(directory / SINGLE)
    change(tensors)
    save_file(tensors, directory / SINGLE, metadata={"format": "pt"})


def test_every_weight_equals_the_models(tiny: TinyModel) -> None:
    checkpoint = tiny.open()
    state = tiny.hf.state_dict()
    for spec in text_weights(checkpoint.text).values():
        expected = state["model." + spec.tensor]
        expected = expected if spec.rows is None else expected[spec.rows[0] : spec.rows[1]]
        assert torch.equal(checkpoint.read(spec), expected), spec.name
        assert torch.equal(checkpoint.read(spec, (1, 3)), expected[1:3]), spec.name


def test_ledger_accounts_for_every_tensor(tiny_copy: Path) -> None:
    dead = "model.layers.7.self_attn.k_proj.weight"
    change_tensors(tiny_copy, lambda t: t.update({dead: torch.zeros(64, 64)}))
    source = Source.open(tiny_copy, modalities=TEXT)
    ledger = account(source)
    assert set(ledger.used) | set(ledger.dead) == set(source.checkpoint.entries)
    assert "cache of an earlier layer" in ledger.dead[dead]


def test_shards(tmp_path: Path) -> None:
    model = make_tiny(tmp_path, shards="1MB")
    assert len(model.open().checkpoint.shards) > 2
    account(model.open())
    victim = model.open().checkpoint.shards[1].path
    data = victim.read_bytes()
    victim.write_bytes(data[:-10])
    with pytest.raises(TruncatedShard):
        model.open()
    victim.unlink()
    with pytest.raises(MissingShard, match=victim.name):
        model.open()


def test_index_that_escapes(tmp_path: Path, edit_json: Edit) -> None:
    model = make_tiny(tmp_path, shards="1MB")
    edit_json(tmp_path / INDEX, lambda index: index["weight_map"].update({"x": "../../etc/passwd"}))
    with pytest.raises(CheckpointError, match="plain file name"):
        model.open()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        pytest.param(lambda t: t.pop("model.layers.3.mlp.up_proj.weight"), UnknownTensor, "up_proj", id="missing"),
        pytest.param(
            lambda t: t.update({"model.norm.weight": torch.zeros(3)}), UnknownTensor, r"shape \[3\]", id="misshapen"
        ),
        pytest.param(
            lambda t: t.update({"lm_head.weight": torch.ones(4352, 64)}), UnknownTensor, "ties", id="own head"
        ),
    ],
)
def test_ledger_refuses(
    change: Callable[[dict[str, torch.Tensor]], None], error: type[G3nError], match: str, tiny_copy: Path
) -> None:
    change_tensors(tiny_copy, change)
    with pytest.raises(error, match=match):
        account(Source.open(tiny_copy))


def test_towers_are_left_out_only_when_asked() -> None:
    left_out = account(Source.open(checkpoint_dir(), modalities=TEXT)).left_out
    assert len(left_out) == 174 and all("not asked for" in why for why in left_out.values())
    assert not account(Source.open(checkpoint_dir())).left_out


def test_tied_head_that_is_stored_is_dead(tiny_copy: Path) -> None:
    change_tensors(tiny_copy, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert "tied" in account(Source.open(tiny_copy, modalities=TEXT)).dead["lm_head.weight"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        pytest.param({"model_type": "gemma3_text"}, "gemma3_text", id="another model"),
        pytest.param({"num_hidden_layers": 11}, "11", id="per-layer lists of another length"),
        pytest.param({"num_kv_shared_layers": 7}, "full_attention", id="no owner of a kind"),
        pytest.param({"hidden_activation": "relu"}, "relu", id="another activation"),
        pytest.param({"num_key_value_heads": 3}, "3 KV heads", id="uneven heads"),
        pytest.param({"rope_scaling": {"factor": 2}}, "RoPE", id="scaled RoPE"),
        pytest.param({"hidden_size": None}, "hidden_size null", id="a null"),
    ],
)
def test_wrong_model(change: dict[str, Any], match: str, tiny_copy: Path, edit_json: Edit) -> None:
    edit_json(tiny_copy / "config.json", lambda config: config.update(change))
    with pytest.raises(WrongModel, match=match):
        Source.open(tiny_copy)


def test_hub_form_of_the_config_reads_alike(tiny: TinyModel, tiny_copy: Path) -> None:
    """The hub nests the text config and spells the RoPE bases flat."""
    text = json.loads((tiny_copy / "config.json").read_text(encoding="utf-8"))
    text.pop("rope_parameters")
    text |= {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": None}
    nested = {"model_type": "gemma3n", "text_config": text, "eos_token_id": [1, 106]}
    (tiny_copy / "config.json").write_text(json.dumps(nested), encoding="utf-8")
    assert Source.open(tiny_copy).text == tiny.open().text


def test_tokenizer_missing_broken_or_foreign(tiny_copy: Path, edit_json: Edit) -> None:
    config = gemma3n_config(Source.open(tiny_copy).text)
    path = tiny_copy / "tokenizer.json"
    assert load_tokenizer(tiny_copy, config).stop_ids == (1, 106)

    def rename(tokenizer: dict[str, Any]) -> None:
        for token in tokenizer["added_tokens"]:
            token["content"] = token["content"].replace("turn", "churn")
        vocab = tokenizer["model"]["vocab"]
        tokenizer["model"]["vocab"] = {k.replace("turn>", "churn>"): v for k, v in vocab.items()}

    edit_json(path, rename)
    remarks: list[str] = []
    assert load_tokenizer(tiny_copy, config, remark=remarks.append).turn_end is None
    assert any("no token of its own" in remark for remark in remarks)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(TokenizerError, match="cannot be loaded"):
        load_tokenizer(tiny_copy, config)
    path.unlink()
    with pytest.raises(TokenizerError, match="missing"):
        load_tokenizer(tiny_copy, config)
