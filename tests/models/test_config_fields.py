"""``config.json`` as ``transformers`` reads it: equal field by field, or refused by the field's name."""

from __future__ import annotations

import ast
import copy
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from g3n_compiler.errors import WrongModel
from g3n_compiler.models.gemma3n.config_fields import FIXED, HARMLESS, READ
from g3n_compiler.models.gemma3n.text_config import parse_text_config, ties_embeddings
from g3n_compiler.models.gemma3n.tower_config import load_audio_config, load_vision_config
from tests.conftest import TINY

AUDIO = {"hidden_size": 64, "conf_num_attention_heads": 4, "conf_num_hidden_layers": 2, "vocab_offset": 4224}
BASE: dict[str, Any] = {
    "model_type": "gemma3n",
    "text_config": {**TINY, "model_type": "gemma3n_text"},
    "vision_config": {"model_type": "gemma3n_vision", "vocab_offset": 4096},
    "audio_config": {"model_type": "gemma3n_audio", "sscp_conv_channel_size": [8, 4], **AUDIO},
    "boi_token_id": 4094,
    "eoi_token_id": 4096,
    "image_token_id": 4097,
    "boa_token_id": 4095,
    "eoa_token_id": 4224,
    "audio_token_id": 4225,
}
SECTIONS = ("text_config", "vision_config", "audio_config")
LINEAR = {"rope_type": "linear", "factor": 8.0}
TEXT = {
    "hidden_size": "hidden_size", "num_layers": "num_hidden_layers", "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads", "head_dim": "head_dim", "ffn_dims": "intermediate_size",
    "layer_types": "layer_types", "sparsity": "activation_sparsity_pattern",
    "num_kv_shared_layers": "num_kv_shared_layers", "sliding_window": "sliding_window", "vocab_size": "vocab_size",
    "ple_vocab_size": "vocab_size_per_layer_input", "ple_dim": "hidden_size_per_layer_input",
    "laurel_rank": "laurel_rank", "altup_num_inputs": "altup_num_inputs", "altup_active_idx": "altup_active_idx",
    "altup_correct_scale": "altup_correct_scale", "rms_norm_eps": "rms_norm_eps",
    "final_logit_softcap": "final_logit_softcapping", "max_context": "max_position_embeddings",
}  # fmt: skip
EMBEDDER = ("hidden_size", "vocab_size", "vocab_offset", "rms_norm_eps")
AUDIO_FIELDS = {
    "hidden_size": "hidden_size", "num_layers": "conf_num_hidden_layers", "num_heads": "conf_num_attention_heads",
    "logit_cap": "conf_attention_logit_cap", "conv_kernel": "conf_conv_kernel_size",
    "reduction": "conf_reduction_factor", "residual_weight": "conf_residual_weight", "clipping": "gradient_clipping",
    "conv_channels": "sscp_conv_channel_size", "group_norm_eps": "sscp_conv_group_norm_eps",
    "rms_norm_eps": "rms_norm_eps", "mel_bins": "input_feat_size",
}  # fmt: skip


def plain(value: Any) -> Any:
    return tuple(plain(v) for v in value) if isinstance(value, list | tuple) else value


def ours(raw: dict[str, Any]) -> dict[str, Any]:
    """Every number that we read, by the name of the section and field of ``transformers``."""
    text = parse_text_config(raw)
    found = {f"text.{theirs}": getattr(text, mine) for mine, theirs in TEXT.items()}
    found |= {"text.rope full": text.rope_theta_full, "text.rope sliding": text.rope_theta_sliding}
    found |= {"text.bos_token_id": text.bos_id, "tied": ties_embeddings(raw)}
    if raw["model_type"] == "gemma3n_text":
        return found
    vision, audio = load_vision_config(raw, False), load_audio_config(raw)
    for name, tower in (("vision", vision), ("audio", audio)):
        found |= {f"{name}.{f}": getattr(tower.embedder, f) for f in EMBEDDER}
    found |= {"vision.architecture": vision.architecture, "vision.model_args": json.loads(vision.model_args)}
    found |= {f"audio.{theirs}": getattr(audio, mine) for mine, theirs in AUDIO_FIELDS.items()}
    found |= {"audio.past": audio.past, "padding": audio.padding_id}
    found |= {"image_token_id": vision.image_id, "audio_token_id": audio.soft_id}
    found |= {"vision_soft": vision.soft_tokens, "audio_soft": audio.max_soft_tokens}
    return found


def theirs(raw: dict[str, Any]) -> dict[str, Any] | None:
    """The same numbers from ``transformers``, and what would change its model beside them; ``None`` if it refuses."""
    from transformers import CONFIG_MAPPING

    logging.disable(logging.CRITICAL)
    try:
        config = CONFIG_MAPPING[raw["model_type"]].from_dict(copy.deepcopy(raw))
        text = config.get_text_config()
        rope = text.rope_parameters
        found = {f"text.{name}": plain(getattr(text, name)) for name in TEXT.values()}
        for kind, short in (("full_attention", "full"), ("sliding_attention", "sliding")):
            found[f"text.rope {short}"] = rope[kind]["rope_theta"] if rope[kind]["rope_type"] == "default" else "scaled"
    except Exception:
        return None
    finally:
        logging.disable(logging.NOTSET)
    # a null is a token that no prompt needs to begin with: the decoder's own id stands for it, and is never read
    found["text.bos_token_id"] = 2 if text.bos_token_id is None else text.bos_token_id
    found["tied"] = bool(config.tie_word_embeddings)
    odd = [text.attention_bias, not getattr(text, "is_causal", True), text.is_heterogeneous]
    if text.hidden_activation != "gelu_pytorch_tanh" or any(odd):
        return {"another model": odd}
    if raw["model_type"] == "gemma3n_text":
        return found
    vision, audio = config.vision_config, config.audio_config
    for name, tower in (("vision", vision), ("audio", audio)):
        found |= {f"{name}.{f}": getattr(tower, f) for f in EMBEDDER}
    found |= {"vision.architecture": vision.architecture, "vision.model_args": vision.model_args or {}}
    found |= {f"audio.{name}": plain(getattr(audio, name)) for name in AUDIO_FIELDS.values()}
    found |= {"audio.past": audio.conf_attention_context_left - 1, "padding": text.vocab_size - 1}
    found |= {"image_token_id": config.image_token_id, "audio_token_id": config.audio_token_id}
    found |= {"vision_soft": config.vision_soft_tokens_per_image, "audio_soft": config.audio_soft_tokens_per_image}
    shapes = plain(audio.sscp_conv_kernel_size), plain(audio.sscp_conv_stride_size), audio.conf_attention_context_right
    if shapes != (((3, 3),) * 2, ((2, 2),) * 2, 0):
        return {"another model": shapes}
    return found


def changed(*edits: tuple[str, str, Any], raw: dict[str, Any] = BASE) -> dict[str, Any]:
    """``raw`` with fields set, each as section (empty: the whole), name and value; ``...`` removes the field."""
    config = copy.deepcopy(raw)
    for section, name, value in edits:
        fields = config.get(section) if section else config
        if isinstance(fields, dict):
            fields.pop(name, None) if value is ... else fields.__setitem__(name, value)
    return config


FLAT = {**TINY, "model_type": "gemma3n_text"}
TAKEN = [
    (),
    (("text_config", "pad_token_id", None),),
    (("text_config", "bos_token_id", None),),
    (("text_config", "rope_scaling", {"rope_type": "default"}),),
    (("text_config", "rope_scaling", {"rope_type": "default", "factor": 1.0}),),
    (("text_config", "rope_scaling", {"rope_theta": 5e5}),),
    (("text_config", "rope_scaling", None),),
    (("text_config", "rope_parameters", {"rope_type": "default", "rope_theta": 5e5}),),
    (
        ("text_config", "rope_parameters", {"sliding_attention": {"rope_theta": 2e4}}),
        ("text_config", "rope_theta", 5e5),
    ),
    (("text_config", "rope_theta", 5e5), ("text_config", "rope_local_base_freq", 2e4)),
    (("text_config", "rope_parameters", {"full_attention": None}), ("text_config", "rope_theta", 5e5)),
    (("text_config", "num_kv_shared_layers", 0),),
    (("text_config", "layer_types", ...), ("text_config", "sliding_window_pattern", 6)),
    (("text_config", "activation_sparsity_pattern", None),),
    (("text_config", "intermediate_size", [128] * 10),),
    (("text_config", "laurel_rank", ...), ("text_config", "rms_norm_eps", ...)),
    (("text_config", "tie_word_embeddings", False),),
    (("text_config", "attention_dropout", 0.1), ("text_config", "altup_coef_clip", 1.0)),
    (("text_config", "query_pre_attn_scalar", 256), ("text_config", "attn_logit_softcapping", 50.0)),
    (("", "text_config", {**TINY, "torch_dtype": "bfloat16", "unsloth_fixed": True, "_name_or_path": "x"}),),
    (("", "quantization_config", {"quant_method": "bitsandbytes"}), ("", "unsloth_version", "2025.7")),
    (("", "architectures", None), ("", "transformers_version", 4)),
    (("", "tie_word_embeddings", False),),
    (("", "tie_word_embeddings", None),),
    (("vision_config", "do_pooling", True), ("vision_config", "label_names", ["a"])),
    (("vision_config", "model_args", None), ("vision_config", "architecture", ...)),
]
REFUSED = [
    (("text_config", "attention_bias", True), "attention_bias true"),
    (("text_config", "is_causal", False), "is_causal false"),
    (("text_config", "is_causal", None), "is_causal null"),
    (("text_config", "per_layer_config", {"0": {"sliding_window": 8}}), "per_layer_config"),
    (("", "per_layer_config", {"0": {}}), "per_layer_config"),
    (("audio_config", "per_layer_config", {"0": {"hidden_size": 8}}), "per_layer_config"),
    (("", "configuration_files", ["config.4.0.0.json"]), "configuration_files"),
    (("text_config", "hidden_activation", "gelu"), "hidden_activation 'gelu'"),
    (("text_config", "rope_scaling", LINEAR), "rope_type 'linear'.*scaled RoPE"),
    (("text_config", "rope_scaling", {"type": "linear", "factor": 8.0}), "type 'linear'.*scaled RoPE"),
    (("text_config", "rope_scaling", {"factor": 8.0}), "'factor': scaled RoPE"),
    (("text_config", "rope_parameters", LINEAR), "rope_type 'linear'"),
    (("text_config", "rope_parameters", {"sliding_attention": LINEAR}), "sliding_attention has rope_type 'linear'"),
    (("text_config", "final_logit_softcapping", None), "final_logit_softcapping null.*without this field means 30"),
    (("text_config", "num_kv_shared_layers", ...), "no num_kv_shared_layers.*means 15"),
    (("text_config", "layer_types", ["sliding_attention"] * 9 + ["chunked_attention"]), "layer_types"),
    (("vision_config", "architecture", "mobilenetv5_300m"), "architecture 'mobilenetv5_300m'"),
    (("audio_config", "conf_attention_context_right", 4), "conf_attention_context_right 4"),
    (("", "image_token_id", None), "image_token_id null"),
]  # fmt: skip


@pytest.mark.parametrize("edits", TAKEN, ids=lambda e: ",".join(name for _, name, _ in e) or "base")
@pytest.mark.parametrize("flat", [False, True])
def test_harmless_forms_are_read_as_transformers_reads_them(edits: tuple[Any, ...], flat: bool) -> None:
    if flat and any(s in SECTIONS[1:] or name in ("text_config", "tie_word_embeddings") for s, name, _ in edits):
        pytest.skip("not of a text-only config")
    raw = changed(*(("", n, v) for _, n, v in edits), raw=FLAT) if flat else changed(*edits)
    assert ours(raw) == theirs(raw)


@pytest.mark.parametrize(("edit", "match"), REFUSED, ids=lambda e: e[1] if isinstance(e, tuple) else "")
def test_another_model_is_refused_by_the_fields_name(edit: tuple[str, str, Any], match: str) -> None:
    with pytest.raises(WrongModel, match=match):
        ours(changed(edit))


@pytest.mark.parametrize("value", [None, ...])
@pytest.mark.parametrize("section", ["vision_config", "audio_config"])
def test_a_tower_without_a_section_is_the_published_one(section: str, value: Any) -> None:
    """With the published vocabulary, so that its ids fit."""
    ids = {"boi_token_id": 7, "eoi_token_id": 262_144, "image_token_id": 262_145, "boa_token_id": 8,
           "eoa_token_id": 262_272, "audio_token_id": 262_273}  # fmt: skip
    edits = [("", name, id) for name, id in ids.items()] + [("text_config", "vocab_size", 262_400)]
    edits += [("vision_config", "vocab_offset", 262_144), ("audio_config", "vocab_offset", 262_272)]
    raw = changed(*edits, ("", section, value))
    assert ours(raw) == theirs(raw)
    with pytest.raises(WrongModel, match=rf"{section} \((null|absent), so all of it is transformers' default"):
        ours(changed(("", section, value)))


@pytest.mark.parametrize("value", [None, ...])
def test_without_a_text_config_all_of_it_is_default(value: Any) -> None:
    assert parse_text_config(changed(("", "text_config", value))).num_layers == 35
    with pytest.raises(WrongModel, match=r"no text_config, but fields of the text model.*gemma3n_text"):
        parse_text_config({**FLAT, "model_type": "gemma3n"})


def test_a_text_only_config_has_no_towers() -> None:
    raw = {**FLAT, "vision_config": BASE["vision_config"], "text_config": {"hidden_size": 8}}
    assert parse_text_config(raw).hidden_size == TINY["hidden_size"]
    with pytest.raises(WrongModel, match=r"gemma3n_text.*no vision tower"):
        load_vision_config(raw, False)


VALUES = st.one_of(
    st.sampled_from([..., None, True, False, 0, 1, 2, 4, 8, 10, 1.5, 0.5, 1e-6, "gelu", "", [], {}, [0.0] * 10]),
    st.sampled_from([[128] * 10, ["full_attention"] * 10, ["sliding_attention"] * 5 + ["full_attention"] * 5]),
    st.sampled_from([LINEAR, {"rope_theta": 7.0}, {"full_attention": {"rope_theta": 5.0}}, {"type": "yarn"}]),
    st.integers(0, 5000),
)


def edits() -> st.SearchStrategy[tuple[str, str, Any]]:
    """Any field that ``transformers`` or this compiler knows, in any section, and some that nobody does."""
    names = sorted(READ | HARMLESS.keys() | {n for kind in FIXED.values() for n in kind} - {"attribute_map"})
    odd = ["quantization_config", "unsloth_version", "torch_dtype", "dtype", "architectures", "use_mrope"]
    return st.tuples(st.sampled_from(["", *SECTIONS]), st.sampled_from([*names, *odd]), VALUES)


@settings(max_examples=400, deadline=None)
@given(st.lists(edits(), min_size=1, max_size=3), st.booleans())
def test_any_config_is_read_as_transformers_reads_it_or_refused(changes: list[Any], flat: bool) -> None:
    raw = changed(*(("", n, v) for _, n, v in changes if n != "model_type"), raw=FLAT) if flat else changed(*changes)
    try:
        mine = ours(raw)
    except WrongModel:
        event("refused")
        return
    expected = theirs(raw)
    event("taken" if expected is not None else "taken, though transformers refuses it")
    assert expected is None or mine == expected


# -- what transformers' code reads -------------------------------------------------------------------------------------


def reads(path: Path) -> Iterator[str]:
    """The fields of a config that a module reads: ``….config.NAME``, and by ``getattr`` or ``hasattr``."""

    def is_config(node: ast.expr) -> bool:
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        if isinstance(node, ast.Call):
            return isinstance(node.func, ast.Attribute) and node.func.attr == "get_text_config"
        return name == "config" or name.endswith("_config")

    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and is_config(node.value):
            yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            subject, name = node.args[:2]
            if is_config(subject) and isinstance(name, ast.Constant):
                yield name.value


METHODS = {"get_text_config", "to_dict", "update", "items", "__class__"}
INTERNAL = {"_attn_implementation", "_experts_implementation", "layer_config"}


def test_every_field_that_transformers_reads_is_accounted_for() -> None:
    """A later ``transformers`` that reads one more field fails here, and someone decides what it means."""
    import transformers

    root = Path(transformers.__file__).parent
    modules = ("models/gemma3n/modeling_gemma3n.py", "models/timm_wrapper/modeling_timm_wrapper.py", "masking_utils.py",
               "cache_utils.py")  # fmt: skip
    found = {name for module in modules for name in reads(root / module)}
    known = READ | HARMLESS.keys() | {name for kind in FIXED.values() for name in kind}
    assert {"hidden_size", "is_causal", "altup_active_idx", "vocab_offset", "per_layer_config"} <= found
    assert sorted(found - known - METHODS - INTERNAL) == []


def test_every_field_that_transformers_declares_is_accounted_for() -> None:
    """Of the four config classes, beside those of every model's."""
    import dataclasses

    from transformers import Gemma3nAudioConfig, Gemma3nConfig, Gemma3nTextConfig, Gemma3nVisionConfig, PretrainedConfig

    common = {f.name for f in dataclasses.fields(PretrainedConfig)}
    classes = (Gemma3nConfig, Gemma3nTextConfig, Gemma3nVisionConfig, Gemma3nAudioConfig)
    own = {f.name for cls in classes for f in dataclasses.fields(cls)} - common
    known = READ | HARMLESS.keys() | {name for kind in FIXED.values() for name in kind}
    assert sorted(own - known) == []
