"""The text model's configuration as a frozen dataclass, read from a Hugging Face ``config.json``.

Source: ``transformers`` ``Gemma3nTextConfig``; both its nested (``text_config``) and flat (text-only
checkpoint) forms are read, and both spellings of the RoPE bases.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from g3n_compiler.errors import CheckpointError, WrongModel

LayerType = Literal["sliding_attention", "full_attention"]
MODEL_TYPES = ("gemma3n", "gemma3n_text")


@dataclass(frozen=True)
class TextConfig:
    """Shape of the decoder. Per-layer fields have one entry for each of ``num_layers`` layers."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_dims: tuple[int, ...]
    layer_types: tuple[LayerType, ...]
    sparsity: tuple[float, ...]
    num_kv_shared_layers: int
    sliding_window: int
    vocab_size: int
    ple_vocab_size: int
    ple_dim: int
    laurel_rank: int
    altup_num_inputs: int
    altup_active_idx: int
    altup_correct_scale: bool
    rms_norm_eps: float
    rope_theta_full: float
    rope_theta_sliding: float
    final_logit_softcap: float
    max_context: int
    bos_id: int
    pad_id: int
    eos_ids: tuple[int, ...]
    ffn_blocks: tuple[tuple[int, ...], ...] = ()
    """Widths of the blocks that each layer's FFN is computed and quantised in; empty: each whole."""
    ple_groups: tuple[tuple[int, ...], ...] = ()
    """Layers whose rows of the per-layer table are quantised together; empty: all together."""

    @property
    def whole(self) -> TextConfig:
        """The same shape, not divided for nested sizes."""
        return replace(self, ffn_blocks=(), ple_groups=())

    def blocks(self, layer: int) -> tuple[int, ...]:
        """Widths of the blocks of a layer's FFN."""
        return self.ffn_blocks[layer] if self.ffn_blocks else (self.ffn_dims[layer],)

    @property
    def num_kv_layers(self) -> int:
        """Layers that own a KV cache: the first ``num_layers - num_kv_shared_layers``."""
        return self.num_layers - self.num_kv_shared_layers

    def kv_owner(self, layer: int) -> int:
        """The layer whose keys and values ``layer`` attends to: itself, or the last owner of its attention type."""
        if layer < self.num_kv_layers:
            return layer
        kind = self.layer_types[layer]
        return max(i for i in range(self.num_kv_layers) if self.layer_types[i] == kind)

    def rope_theta(self, layer_type: LayerType) -> float:
        return self.rope_theta_full if layer_type == "full_attention" else self.rope_theta_sliding

    def is_sliding(self, layer: int) -> bool:
        return self.layer_types[layer] == "sliding_attention"

    def cache_length(self, layer: int, context: int) -> int:
        """Positions that the KV cache of an owning ``layer`` holds: the window on sliding layers, else the context."""
        return min(self.sliding_window, context) if self.is_sliding(layer) else context


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from ``path``; raises :class:`CheckpointError` when it is missing or is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.name} is missing from {path.parent}: expected a Hugging Face checkpoint"
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}): download the file again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected a JSON object")
    return value


def load_text_config(directory: Path) -> TextConfig:
    """Read ``config.json`` (and ``generation_config.json`` for the stop ids) of a checkpoint folder."""
    raw = read_json(directory / "config.json")
    model_type = raw.get("model_type")
    if model_type not in MODEL_TYPES:
        raise WrongModel(
            f"config.json says model_type {model_type!r}, expected one of {', '.join(MODEL_TYPES)}: "
            "this compiler builds Gemma 3n only"
        )
    text = raw.get("text_config", raw)
    eos = text.get("eos_token_id") if raw.get("eos_token_id") is None else raw["eos_token_id"]
    generation = directory / "generation_config.json"
    if generation.exists():
        eos = read_json(generation).get("eos_token_id", eos)
    try:
        return _parse(text, eos)
    except (KeyError, TypeError, ValueError) as error:
        raise WrongModel(f"config.json does not describe a Gemma 3n text model: {error!r}") from None


def _per_layer(value: Any, n: int, name: str) -> list[Any]:
    values = list(value) if isinstance(value, (list, tuple)) else [value] * n
    if len(values) != n:
        raise ValueError(f"{name} has {len(values)} entries for {n} layers")
    return values


def _parse(text: dict[str, Any], eos: Any) -> TextConfig:
    n = int(text["num_hidden_layers"])
    types = text.get("layer_types") or ["full_attention" if (i + 1) % 5 == 0 else "sliding_attention" for i in range(n)]
    types = _per_layer(types, n, "layer_types")
    if unknown := set(types) - {"sliding_attention", "full_attention"}:
        raise ValueError(f"unknown layer types {sorted(unknown)}")
    sparsity = text.get("activation_sparsity_pattern")
    if sparsity is None:
        sparsity = [0.95] * (10 if n > 10 else 0) + [0.0] * (n - 10 if n > 10 else n)
    rope = text.get("rope_parameters") or {}

    def theta(kind: str, flat: str, default: float) -> float:
        entry = rope.get(kind) or {}
        if entry.get("rope_type", "default") != "default" or text.get("rope_scaling"):
            raise ValueError(f"scaled RoPE on {kind} is not part of Gemma 3n")
        return float(entry.get("rope_theta", text.get(flat, default)))

    config = TextConfig(
        hidden_size=int(text["hidden_size"]),
        num_layers=n,
        num_heads=int(text["num_attention_heads"]),
        num_kv_heads=int(text["num_key_value_heads"]),
        head_dim=int(text["head_dim"]),
        ffn_dims=tuple(int(x) for x in _per_layer(text["intermediate_size"], n, "intermediate_size")),
        layer_types=tuple(types),
        sparsity=tuple(float(x) for x in _per_layer(sparsity, n, "activation_sparsity_pattern")),
        num_kv_shared_layers=int(text["num_kv_shared_layers"]),
        sliding_window=int(text["sliding_window"]),
        vocab_size=int(text["vocab_size"]),
        ple_vocab_size=int(text["vocab_size_per_layer_input"]),
        ple_dim=int(text["hidden_size_per_layer_input"]),
        laurel_rank=int(text["laurel_rank"]),
        altup_num_inputs=int(text.get("altup_num_inputs", 4)),
        altup_active_idx=int(text.get("altup_active_idx", 0)),
        altup_correct_scale=bool(text.get("altup_correct_scale", True)),
        rms_norm_eps=float(text.get("rms_norm_eps", 1e-6)),
        rope_theta_full=theta("full_attention", "rope_theta", 1e6),
        rope_theta_sliding=theta("sliding_attention", "rope_local_base_freq", 1e4),
        final_logit_softcap=float(text.get("final_logit_softcapping", 30.0)),
        max_context=int(text.get("max_position_embeddings", 32768)),
        bos_id=int(text.get("bos_token_id", 2)),
        pad_id=int(text.get("pad_token_id", 0)),
        eos_ids=tuple(eos) if isinstance(eos, (list, tuple)) else (int(eos if eos is not None else 1),),
    )
    _check(config, text)
    return config


def _check(config: TextConfig, text: dict[str, Any]) -> None:
    owners = {config.layer_types[i] for i in range(config.num_kv_layers)}
    if not 0 <= config.num_kv_shared_layers < config.num_layers or owners != set(config.layer_types):
        raise ValueError(
            f"num_kv_shared_layers {config.num_kv_shared_layers} of {config.num_layers} leaves no KV owner "
            f"for {sorted(set(config.layer_types) - owners)}"
        )
    if config.num_heads % config.num_kv_heads:
        raise ValueError(f"{config.num_heads} heads cannot share {config.num_kv_heads} KV heads evenly")
    if any(not 0.0 <= s < 1.0 for s in config.sparsity):
        raise ValueError("activation sparsity must lie in [0, 1)")
    if text.get("hidden_activation", "gelu_pytorch_tanh") != "gelu_pytorch_tanh":
        raise ValueError(f"hidden_activation {text['hidden_activation']!r}, expected gelu_pytorch_tanh")
    if text.get("attention_bias"):
        raise ValueError("attention_bias is not part of Gemma 3n")
    if text.get("tie_word_embeddings") is False:
        raise ValueError("untied embeddings are not part of Gemma 3n")
    if not 0 <= config.altup_active_idx < config.altup_num_inputs:
        raise ValueError(f"altup_active_idx {config.altup_active_idx} of {config.altup_num_inputs} streams")
