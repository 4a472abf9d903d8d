"""The text model's configuration as a frozen dataclass, read from a Hugging Face ``config.json``.

Source: ``transformers`` ``Gemma3nTextConfig``. Both the nested form (``text_config``) and the flat form of text-only
checkpoints are read. A missing field means what it means to ``transformers``; :mod:`.config_fields` says which matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

from g3n_compiler.checkpoint.fields import Section, present
from g3n_compiler.checkpoint.fields import read_json as read_json
from g3n_compiler.errors import WrongModel
from g3n_compiler.models.gemma3n.config_fields import TEXT, check_fields, reference_fields
from g3n_compiler.models.gemma3n.rope_config import rope_bases
from g3n_compiler.models.shape import LayerType, TextShape

TEXT_ONLY = "gemma3n_text"
"""The ``model_type`` of a config whose own fields are the text model's."""
MODEL_TYPES = ("gemma3n", TEXT_ONLY)
MAX_LAYERS = 512
"""The published models have at most 35."""
MAX_WIDTH = 1 << 16
"""Of a hidden state; the published models have 2048, and FFNs of 16384."""
MAX_HEADS = 512
MAX_HEAD_DIM = 4096
MAX_FFN = 1 << 20
MAX_STREAMS = 64
MAX_VOCABULARY = 1 << 21
"""Eight times the size of Gemma's."""
MAX_POSITIONS = 1 << 24
MAX_ID = (1 << 31) - 1
MAX_STOPS = 256
_TINY, _HUGE = 1e-6, 1e9


@dataclass(frozen=True, kw_only=True)
class TextConfig(TextShape):
    """Shape of Gemma 3n's decoder."""

    family: str = "gemma3n"
    num_heads: int
    num_kv_heads: int
    head_dim: int
    sparsity: tuple[float, ...]
    laurel_rank: int
    altup_num_inputs: int
    altup_active_idx: int
    altup_correct_scale: bool
    rms_norm_eps: float
    rope_theta_full: float
    rope_theta_sliding: float
    final_logit_softcap: float

    def rope_theta(self, layer_type: LayerType) -> float:
        return self.rope_theta_full if layer_type == "full_attention" else self.rope_theta_sliding

    def kv_width(self, layer: int) -> int:
        return self.num_kv_heads * self.head_dim

    def kept(self, layers: tuple[int, ...], ffn_dims: tuple[int, ...]) -> TextConfig:
        return replace(
            self,
            num_layers=len(layers),
            ffn_dims=ffn_dims,
            layer_types=tuple(self.layer_types[i] for i in layers),
            sparsity=tuple(self.sparsity[i] for i in layers),
            num_kv_shared_layers=sum(i >= self.num_kv_layers for i in layers),
        )


def load_text_config(directory: Path) -> TextConfig:
    """Read ``config.json`` (and ``generation_config.json`` for the stop ids) of a checkpoint folder."""
    generation = directory / "generation_config.json"
    return parse_text_config(
        read_json(directory / "config.json"), read_json(generation) if present(generation) else None
    )


def parse_text_config(config: Mapping[str, Any], generation: Mapping[str, Any] | None = None) -> TextConfig:
    """The configuration from ``config.json`` and, for the stop ids, ``generation_config.json``.

    Raises:
        WrongModel: they do not describe a Gemma 3n text model.
    """
    text = text_section(config)
    check_fields(Section(config, "config.json"), "whole")
    check_fields(text, "text")
    stops = _stop_ids(text, (1,))
    stops = _stop_ids(Section(config, "config.json"), stops)
    if generation is not None:
        default = stops if "eos_token_id" not in generation else (1,)
        stops = _stop_ids(Section(generation, "generation_config.json"), default)
    return _parse(text, stops)


def gemma3n_config(shape: TextShape) -> TextConfig:
    """``shape`` as Gemma 3n's configuration, for code that only this family is lowered by."""
    if not isinstance(shape, TextConfig):
        raise TypeError(f"{type(shape).__name__} is not Gemma 3n's configuration")
    return shape


def text_section(raw: Mapping[str, Any]) -> Section:
    """The text model's fields in a whole ``config.json``, nested or flat.

    Raises:
        WrongModel: they are flat in a config whose model type has them nested, where ``transformers`` overlooks them.
    """
    whole = Section(raw, "config.json")
    if _is_flat(whole):
        return whole
    if "text_config" not in whole and "num_hidden_layers" in whole:
        raise WrongModel(
            f"{whole.where} has model_type 'gemma3n' and no text_config, but fields of the text model outside it, "
            f"where transformers does not look: set model_type to '{TEXT_ONLY}', or move them into text_config"
        )
    return whole.part("text_config")


def _is_flat(whole: Section) -> bool:
    model_type = whole.raw("model_type")
    return model_type == TEXT_ONLY or (model_type != "gemma3n" and "text_config" not in whole)


def ties_embeddings(raw: Mapping[str, Any]) -> bool:
    """Whether ``transformers`` makes the head of the embedding table; it asks the outermost config."""
    value = raw.get("tie_word_embeddings", True)
    return bool(value) or (value is None and raw.get("model_type") == TEXT_ONLY)


def text_reference(raw: Mapping[str, Any], config: TextConfig) -> dict[str, Any]:
    """Arguments of ``Gemma3nTextConfig``: the file's own fields, but those that a slice changes as ``config`` has
    them, and the RoPE bases, of which the file has many forms.
    """
    bases = {"full_attention": config.rope_theta_full, "sliding_attention": config.rope_theta_sliding}
    return {
        **reference_fields(text_section(raw), TEXT, ("rms_norm_eps", "final_logit_softcapping")),
        **_by_slice(config),
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": base} for kind, base in bases.items()},
    }


def sliced_config(raw: Mapping[str, Any], config: TextConfig) -> dict[str, Any]:
    """``config.json`` of a checkpoint that holds only the slice ``config`` of the one that ``raw`` is from."""
    changed = _by_slice(config)
    if _is_flat(Section(raw, "config.json")):
        return {**raw, **changed}
    return {**raw, "text_config": {**(raw.get("text_config") or {}), **changed}}


def _by_slice(config: TextConfig) -> dict[str, Any]:
    """The fields of the text model that a slice changes."""
    return {
        "num_hidden_layers": config.num_layers,
        "intermediate_size": list(config.ffn_dims),
        "layer_types": list(config.layer_types),
        "activation_sparsity_pattern": list(config.sparsity),
        "num_kv_shared_layers": config.num_kv_shared_layers,
    }


def _stop_ids(section: Section, default: tuple[int, ...]) -> tuple[int, ...]:
    """``eos_token_id``: an id or a list of them."""
    value = section.raw("eos_token_id")
    if not isinstance(value, list):
        return (section.integer("eos_token_id", 0, 0, MAX_ID),) if value is not None else default
    if len(value) > MAX_STOPS:
        raise section.wrong("eos_token_id", f"at most {MAX_STOPS} ids")
    return section.integers("eos_token_id", (), len(value), 0, MAX_ID)


def _parse(text: Section, stop_ids: tuple[int, ...]) -> TextConfig:
    n = text.integer("num_hidden_layers", 35, 1, MAX_LAYERS)
    streams = text.integer("altup_num_inputs", 4, 1, MAX_STREAMS)
    vocab = text.integer("vocab_size", 262_400, 2, MAX_VOCABULARY)
    full, sliding = rope_bases(text)
    config = TextConfig(
        hidden_size=text.integer("hidden_size", 2048, 1, MAX_WIDTH),
        num_layers=n,
        num_heads=text.integer("num_attention_heads", 8, 1, MAX_HEADS),
        num_kv_heads=text.integer("num_key_value_heads", 2, 1, MAX_HEADS),
        head_dim=text.integer("head_dim", 256, 2, MAX_HEAD_DIM),
        ffn_dims=text.integer_for_each("intermediate_size", 16_384, n, 1, MAX_FFN),
        layer_types=_layer_types(text, n),
        sparsity=text.number_for_each("activation_sparsity_pattern", _default_sparsity(n), n, 0.0, 1.0),
        num_kv_shared_layers=text.integer("num_kv_shared_layers", 15, 0, n - 1),
        sliding_window=text.integer("sliding_window", 512, 1, MAX_POSITIONS),
        vocab_size=vocab,
        ple_vocab_size=text.integer("vocab_size_per_layer_input", 262_144, 2, MAX_VOCABULARY),
        ple_dim=text.integer("hidden_size_per_layer_input", 256, 1, MAX_WIDTH),
        laurel_rank=text.integer("laurel_rank", 64, 1, MAX_WIDTH),
        altup_num_inputs=streams,
        altup_active_idx=text.integer("altup_active_idx", 0, 0, streams - 1),
        altup_correct_scale=text.flag("altup_correct_scale", True, null=False),
        rms_norm_eps=text.number("rms_norm_eps", 1e-6, 0.0, 1.0),
        rope_theta_full=full,
        rope_theta_sliding=sliding,
        final_logit_softcap=text.number("final_logit_softcapping", 30.0, _TINY, _HUGE),
        max_context=text.integer("max_position_embeddings", 32_768, 2, MAX_POSITIONS),
        bos_id=text.integer("bos_token_id", 2, 0, vocab - 1, null=True),
        pad_id=text.integer("pad_token_id", 0, -1, vocab - 1, null=True),
        eos_ids=stop_ids,
    )
    _check(config, text)
    return config


def _layer_types(text: Section, n: int) -> tuple[LayerType, ...]:
    default = tuple("full_attention" if (i + 1) % 5 == 0 else "sliding_attention" for i in range(n))
    types = text.choice_for_each("layer_types", default, n, get_args(LayerType))
    return cast("tuple[LayerType, ...]", types)


def _default_sparsity(n: int) -> tuple[float, ...]:
    return (0.95,) * 10 + (0.0,) * (n - 10) if n > 10 else (0.0,) * n


def _check(config: TextConfig, text: Section) -> None:
    owners = {config.layer_types[i] for i in range(config.num_kv_layers)}
    if owners != set(config.layer_types):
        raise WrongModel(
            f"num_kv_shared_layers {config.num_kv_shared_layers} of {config.num_layers} leaves no KV owner "
            f"for {sorted(set(config.layer_types) - owners)}"
        )
    if config.num_heads % config.num_kv_heads:
        raise WrongModel(f"{config.num_heads} heads cannot share {config.num_kv_heads} KV heads evenly")
    if config.hidden_size % config.num_heads:
        raise WrongModel(f"hidden_size {config.hidden_size} is not a multiple of {config.num_heads} heads")
    if config.head_dim % 2:
        raise WrongModel(f"head_dim {config.head_dim} is odd: positions turn pairs of numbers")
    if any(s >= 1.0 for s in config.sparsity):
        raise WrongModel("activation_sparsity_pattern must lie in [0, 1)")
    text.choice("hidden_activation", "gelu_pytorch_tanh", ("gelu_pytorch_tanh",))
