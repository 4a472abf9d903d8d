"""Adapters of every form merged while reading, against PEFT's own merge."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from g3n_compiler.models.registry import text_weights
from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.source import Source
from g3n_compiler.verify.checks import EXACT, relative_error
from g3n_compiler.verify.reference import Reference, hf_logits
from tests.checkpoint.adapters import (
    ATTENTION,
    PREFIX,
    assert_merged,
    edit_config,
    edit_tensors,
    merged,
    write_adapter,
)
from tests.conftest import TinyModel, ids_of

Q3 = "model.layers.3.self_attn.q_proj"
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "ranks": {"rank_pattern": {"q_proj": 8}},
    "alphas": {"alpha_pattern": {r"model.layers.\d.self_attn.v_proj": 32, f"^{Q3}": 3}},
    "both": {"rank_pattern": {r"layers\.[0-4]\..*(q|k)_proj": 2}, "alpha_pattern": {Q3: 7}, "use_rslora": True},
    "all": {"target_modules": "all-linear"},
    "regex": {"target_modules": r".*\.(linear_left|per_layer_projection|per_layer_model_projection|down_proj)"},
    "exclude": {"target_modules": "all-linear", "exclude_modules": r".*(altup|laurel).*"},
    "layers": {"layers_to_transform": [0, 3], "layers_pattern": "layers"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "mica": {"init_lora_weights": "mica"},
    "dropout": {"lora_dropout": 0.1, "task_type": "CAUSAL_LM"},
    "table": {"target_modules": ["q_proj", "embed_tokens_per_layer"], "fan_in_fan_out": True},
    "parameters": {
        "target_modules": ["q_proj"],
        "target_parameters": ["mlp.gate_proj.weight"],
        "rank_pattern": {"gate_proj": 2, "gate_proj.weight": 3},
    },
    "tokens": {"trainable_token_indices": [5, 6, 4351]},
    "tokens of both": {"trainable_token_indices": {"embed_tokens": [9, 2], "lm_head": [9, 2]}},
    "tokens of a table": {"trainable_token_indices": {"embed_tokens_per_layer": [9, 2]}},
    "norms": {"modules_to_save": ["norm", "post_attention_layernorm"]},
    "saved and tied": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "saved and absent": {"modules_to_save": ["classifier", "score", "layers.1.mlp"]},
}


@pytest.fixture(scope="module")
def nano() -> Any:
    """The multimodal model of ``transformers``."""
    from transformers import Gemma3nForConditionalGeneration

    return Gemma3nForConditionalGeneration.from_pretrained(checkpoint_dir(), dtype=torch.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_merged_reading_equals_pefts_merge(kind: str, tiny: TinyModel, tmp_path: Path) -> None:
    write_adapter(tiny.hf, tmp_path, **{"target_modules": ATTENTION, **KINDS[kind]})
    assert_merged(tiny.open().adapted(tmp_path), merged(tiny.hf, tmp_path))


@given(
    targets=st.sets(
        st.sampled_from([*ATTENTION, "up_proj", "down_proj", "linear_left", "per_layer_input_gate"]), min_size=1
    ),
    rank=st.integers(1, 6),
    alpha=st.integers(1, 40),
    rslora=st.booleans(),
    ranks=st.dictionaries(
        st.sampled_from(["q_proj", "mlp.up_proj", "^model.layers.2.mlp.down_proj"]), st.integers(1, 9)
    ),
    alphas=st.dictionaries(
        st.sampled_from(["o_proj", r"layers\.\d+\.laurel.*", f"{Q3}|model.layers.4.self_attn.v_proj"]),
        st.integers(1, 90),
    ),
)
@settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_any_combination_of_options_equals_pefts_merge(
    tiny: TinyModel,
    tmp_path_factory: pytest.TempPathFactory,
    targets: set[str],
    rank: int,
    alpha: int,
    rslora: bool,
    ranks: dict[str, int],
    alphas: dict[str, int],
) -> None:
    folder = tmp_path_factory.mktemp("adapter")
    adapted = write_adapter(
        tiny.hf,
        folder,
        r=rank,
        lora_alpha=alpha,
        target_modules=sorted(targets),
        use_rslora=rslora,
        rank_pattern=ranks,
        alpha_pattern=alphas,
    )
    # What training holds is what is to be merged, not what survives PEFT's own loading.
    assert_merged(tiny.open().adapted(folder), adapted.merge_and_unload().state_dict())


def test_logits_are_those_of_the_merged_model(tiny: TinyModel, tmp_path: Path) -> None:
    adapted = write_adapter(tiny.hf, tmp_path, target_modules=["q_proj", "up_proj"], trainable_token_indices=[5, 6])
    source, ids = tiny.open().adapted(tmp_path), ids_of(30, 4352)
    spec = text_weights(source.text)["layers.0.mlp.up_proj"]
    together = adapted.merge_and_unload()
    torch.testing.assert_close(source.read(spec, (3, 5)), together.model.layers[0].mlp.up_proj.weight[3:5])
    assert relative_error(Reference(source).logits(ids).numpy(), hf_logits(together, ids).numpy()) < EXACT


@pytest.mark.parametrize("form", ["half", "brain", "default", "french", "unprefixed", "multimodal", "old", "bare"])
def test_other_forms_of_the_file_are_the_same_adapter(form: str, tiny: TinyModel, tmp_path: Path) -> None:
    write_adapter(tiny.hf, tmp_path, target_modules=ATTENTION, use_rslora=True)
    rename = {
        "default": ("lora_", "lora_", ".weight", ".default.weight"),
        "french": ("lora_", "lora_", ".weight", ".french.weight"),
        "unprefixed": (PREFIX, ""),
        "multimodal": (f"{PREFIX}model.", f"{PREFIX}model.language_model."),
        "old": (f"{PREFIX}model.", f"{PREFIX}language_model.model."),
        "bare": (f"{PREFIX}model.", PREFIX),
    }.get(form, ())
    dtype = {"half": torch.float16, "brain": torch.bfloat16}.get(form, torch.float32)
    edit_tensors(tmp_path, lambda name, value: (name, value.to(dtype)))
    expected = merged(tiny.hf, tmp_path)

    def renamed(name: str, value: torch.Tensor) -> tuple[str, torch.Tensor]:
        for old, new in zip(rename[::2], rename[1::2], strict=True):
            name = name.replace(old, new)
        return name, value

    edit_tensors(tmp_path, renamed)
    remarks: list[str] = []
    assert_merged(tiny.open().adapted(tmp_path, remarks.append), expected)
    assert any("other names" in r for r in remarks) == (form in ("multimodal", "old", "bare"))


@pytest.mark.parametrize(
    "targets", ["all-linear", r".*(pw_exp\.conv|conv_stem\.conv|conv_1\.conv|embed_vision\.embedding)"]
)
def test_towers_are_merged_with_their_convolutions(targets: str, nano: Any, tmp_path: Path) -> None:
    write_adapter(nano, tmp_path, target_modules=targets)
    assert_merged(Source.open(checkpoint_dir()).adapted(tmp_path), merged(nano, tmp_path))


def test_an_adapter_of_the_text_model_fits_the_multimodal_checkpoint(nano: Any, tmp_path: Path) -> None:
    from transformers import Gemma3nForCausalLM

    text = Gemma3nForCausalLM(nano.config.get_text_config())
    options = {"rank_pattern": {r"^model\.layers\.2\..*": 2}, "alpha_pattern": {"^model.layers.1.self_attn.q_proj": 5}}
    write_adapter(text, tmp_path, target_modules=["q_proj", "down_proj"], modules_to_save=["norm"], **options)
    text.model.load_state_dict(nano.model.language_model.state_dict())
    inner = {n.replace("model.", "model.language_model.", 1): v for n, v in merged(text, tmp_path).items()}
    source = Source.open(checkpoint_dir()).adapted(tmp_path)
    assert_merged(source, nano.state_dict() | inner)


def test_tensors_without_effect_are_remarked_on(nano: Any, tmp_path: Path) -> None:
    """Those of layers that share the KV cache of an earlier one: ``transformers`` of today has none, adapters do."""
    write_adapter(nano, tmp_path, target_modules=r".*language_model\.layers\.[01]\.self_attn\.k_proj")
    edit_tensors(tmp_path, lambda name, value: (name.replace("layers.1.", "layers.9."), value))
    remarks: list[str] = []
    assert Source.open(checkpoint_dir()).adapted(tmp_path, remarks.append).adapter
    (remark,) = remarks
    assert remark.startswith("1 tensors") and "layers.9.self_attn.k_proj" in remark and "earlier layer" in remark


def test_a_token_table_that_peft_adds_is_taken(tiny: TinyModel, tmp_path: Path) -> None:
    changed = deepcopy(tiny.hf)
    with torch.no_grad():
        changed.model.embed_tokens.weight[7] += 1
    write_adapter(changed, tmp_path, {"save_embedding_layers": True}, target_modules=["q_proj"])
    expected, remarks = merged(tiny.hf, tmp_path), list[str]()
    assert not torch.equal(expected["model.embed_tokens.weight"], tiny.hf.model.embed_tokens.weight)
    assert_merged(tiny.open().adapted(tmp_path, remarks.append), expected)
    assert any("from the adapter" in r for r in remarks)


def test_harmless_settings_never_stop_a_merge(tiny: TinyModel, tmp_path: Path) -> None:
    write_adapter(tiny.hf, tmp_path, target_modules=["q_proj"])
    expected = merged(tiny.hf, tmp_path)
    edit_config(
        tmp_path,
        peft_version="0.99.dev0@abc",
        base_model_name_or_path=None,
        revision="main",
        task_type="QUESTION_ANS",
        auto_mapping={"a": 1},
        corda_config=None,
        loftq_config={"loftq_bits": 4},
        eva_config={"rho": 2.0},
        lora_ga_config={"scale": "stable"},
        a_setting_of_next_year=None,
        another=[],
        a_third={},
        a_fourth=False,
        target_modules="(.*.*)*(.*.*)*x",  # takes forever if it is tried
        layers_pattern="(",
        rank_pattern=None,
        megatron_core="other",
        runtime_config={"ephemeral_gpu_offload": True},
    )
    assert_merged(tiny.open().adapted(tmp_path), expected)
