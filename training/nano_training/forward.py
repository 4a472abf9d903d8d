"""The text decoder for training: functions of weights that may be views of larger ones (MatFormer slices).

It computes the same as the library's model (``tests/nano`` compares both), but faster on a CPU: tokens are flat,
AltUp's small matrix products are sums over streams, and the parts between matrix products are compiled.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Gemma3nTextConfig

_STREAMS = 4
_EPS = 1e-6
_LEAST_POWER = 1e-5
_NO_CUTOFF = 0.0

Weights = Mapping[str, Tensor]
"""Weights of the whole model, by their names in ``Gemma3nForCausalLM``."""


@dataclass(frozen=True)
class Slice:
    """FFN widths of the kept layers, and the layers that are left out."""

    widths: tuple[int, ...]
    skip: tuple[int, ...] = ()


def _norm(x: Tensor, weight: Tensor | None) -> Tensor:
    normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + _EPS)
    return normed if weight is None else normed * weight


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos[:, None] + torch.cat((-x[..., half:], x[..., :half]), -1) * sin[:, None]


def _modalities(active: Tensor, norm: Tensor, router: Tensor) -> Tensor:
    return torch.tanh(F.linear(_norm(active, norm) / active.shape[-1], router))


def _predict(streams: list[Tensor], norm: Tensor, router: Tensor, mixing: Tensor) -> list[Tensor]:
    """AltUp's predictions: each stream plus a mixture of all of them, weighted per token."""
    coefs = F.linear(_modalities(streams[0], norm, router), mixing)  # (n, to * from)
    return [
        into + sum(coefs[:, _STREAMS * i + j, None] * stream for j, stream in enumerate(streams))
        for i, into in enumerate(streams)
    ]


def _before_attention(
    streams: list[Tensor], rope: tuple[Tensor, Tensor], w: dict[str, Tensor], owns_kv: bool
) -> tuple[list[Tensor], Tensor, Tensor, Tensor | None, Tensor | None]:
    predictions = _predict(streams, w["altup.router_norm"], w["altup.modality_router"], w["altup.prediction_coefs"])
    normed = _norm(predictions[0], w["input_layernorm"])
    heads = (len(normed), -1, w["self_attn.q_norm"].shape[0])
    query = _rotate(_norm(F.linear(normed, w["self_attn.q_proj"]).view(heads), w["self_attn.q_norm"]), *rope)
    if not owns_kv:
        return predictions, normed, query, None, None
    key = _rotate(_norm(F.linear(normed, w["self_attn.k_proj"]).view(heads), w["self_attn.k_norm"]), *rope)
    value = _norm(F.linear(normed, w["self_attn.v_proj"]).view(heads), None)
    return predictions, normed, query, key, value


def _after_attention(
    attended: Tensor, predictions: list[Tensor], normed: Tensor, ple: Tensor, cutoff: float, w: dict[str, Tensor]
) -> list[Tensor]:
    attention = _norm(F.linear(attended, w["self_attn.o_proj"]), w["post_attention_layernorm"])
    low_rank = F.linear(F.linear(normed, w["laurel.linear_left"]), w["laurel.linear_right"])
    laurel = normed + _norm(low_rank, w["laurel.post_laurel_norm"])
    joined = (predictions[0] + attention + laurel) * (1 / math.sqrt(2))
    inner = _norm(joined, w["pre_feedforward_layernorm"])
    gate = F.linear(inner, w["mlp.gate_proj"])
    if cutoff:
        mean = gate.mean(-1, keepdim=True)
        deviation = (gate - mean).square().mean(-1, keepdim=True).sqrt()
        gate = F.relu(gate - (mean + deviation * cutoff))
    fed = F.linear(_gelu(gate) * F.linear(inner, w["mlp.up_proj"]), w["mlp.down_proj"])
    activated = joined + _norm(fed, w["post_feedforward_layernorm"])
    coefs = F.linear(
        _modalities(activated, w["altup.router_norm"], w["altup.modality_router"]), w["altup.correction_coefs"]
    )
    innovation = activated - predictions[0]
    corrected = [p + innovation * (coefs[:, i, None] + 1.0) for i, p in enumerate(predictions)]
    gated = _gelu(F.linear(corrected[0] * w["altup.correct_output_scale"], w["per_layer_input_gate"])) * ple
    extra = _norm(F.linear(gated, w["per_layer_projection"]), w["post_per_layer_input_norm"])
    return [corrected[0], *(stream + extra for stream in corrected[1:])]


@cache
def _rope(theta: float, dim: int, length: int, rows: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (rows * length, dim)."""
    frequencies = theta ** (-torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies).repeat(rows, 2)
    return angles.cos(), angles.sin()


@cache
def _visible(length: int, window: int | None) -> Tensor:
    """(T, T), true where a key is visible."""
    past = torch.arange(length)[:, None] - torch.arange(length)[None, :]
    return (past >= 0) if window is None else (past >= 0) & (past < window)


def _match_power(x: Tensor, like: Tensor) -> Tensor:
    return (
        x * like.square().mean(-1, keepdim=True).sqrt() / x.square().mean(-1, keepdim=True).clamp(_LEAST_POWER).sqrt()
    )


def layer_weights(w: Weights, layer: int, width: int) -> dict[str, Tensor]:
    """The weights of one layer, by their names inside it, with an FFN of ``width``."""
    prefix = f"layers.{layer}."
    own = {name.removeprefix(prefix): weight for name, weight in w.items() if name.startswith(prefix)}
    own["mlp.gate_proj"] = own["mlp.gate_proj"][:width]
    own["mlp.up_proj"] = own["mlp.up_proj"][:width]
    own["mlp.down_proj"] = own["mlp.down_proj"][:, :width]
    return own


class Decoder:
    """From token ids to final hidden states. ``compiled`` pays off for many calls with the same number of tokens."""

    def __init__(self, config: Gemma3nTextConfig, compiled: bool = False) -> None:
        self.config = config
        wrap: Callable[[Any], Any] = (lambda f: torch.compile(f, dynamic=False)) if compiled else (lambda f: f)
        self._before, self._after = wrap(_before_attention), wrap(_after_attention)
        self._cutoffs = [
            torch.special.ndtri(torch.tensor(sparsity)).item() if sparsity else _NO_CUTOFF
            for sparsity in config.activation_sparsity_pattern
        ]

    def __call__(self, weights: Weights, ids: Tensor, part: Slice) -> Tensor:
        """Final, normed hidden states (B * T, D) of ``ids`` (B, T) under the slice ``part``."""
        kept = [i for i in range(self.config.num_hidden_layers) if i not in part.skip]
        w = {name.removeprefix("model.").removesuffix(".weight"): weight for name, weight in weights.items()}
        flat = ids.flatten()
        first = F.embedding(flat, w["embed_tokens"]) * self.config.hidden_size**0.5
        ple = self._per_layer_inputs(w, flat, first)
        streams = [
            first,
            *(_match_power(F.linear(first, w[f"altup_projections.{i}"]), first) for i in range(_STREAMS - 1)),
        ]
        shared: dict[str, tuple[Tensor, Tensor]] = {}
        for layer, width in zip(kept, part.widths, strict=True):
            streams = self._layer(w, layer, width, streams, ple[:, layer], shared, *ids.shape)
        last = [streams[0]]
        for i, stream in enumerate(streams[1:]):
            last.append(_match_power(F.linear(stream, w[f"altup_unembed_projections.{i}"]), streams[0]))
        return _norm(torch.stack(last).mean(0), w["norm"])

    def _per_layer_inputs(self, w: Weights, flat: Tensor, first: Tensor) -> Tensor:
        """(tokens, layers, P)"""
        shape = (len(flat), self.config.num_hidden_layers, self.config.hidden_size_per_layer_input)
        rows = torch.where(flat < self.config.vocab_size_per_layer_input, flat, 0)
        looked_up = F.embedding(rows, w["embed_tokens_per_layer"]).view(shape) * shape[2] ** 0.5
        projected = (F.linear(first, w["per_layer_model_projection"]) * first.shape[-1] ** -0.5).view(shape)
        return (_norm(projected, w["per_layer_projection_norm"]) + looked_up) * 0.5**0.5

    def _layer(
        self,
        w: Weights,
        layer: int,
        width: int,
        streams: list[Tensor],
        ple: Tensor,
        shared: dict[str, tuple[Tensor, Tensor]],
        rows: int,
        length: int,
    ) -> list[Tensor]:
        kind, own = self.config.layer_types[layer], layer_weights(w, layer, width)
        theta = self.config.rope_parameters[kind]["rope_theta"]
        rope = _rope(theta, self.config.head_dim, length, rows)
        owns_kv = layer < self.config.num_hidden_layers - self.config.num_kv_shared_layers
        predictions, normed, query, key, value = self._before(streams, rope, own, owns_kv)
        if owns_kv:
            shared[kind] = tuple(x.view(rows, length, -1, self.config.head_dim).transpose(1, 2) for x in (key, value))
        attended = F.scaled_dot_product_attention(
            query.view(rows, length, -1, self.config.head_dim).transpose(1, 2),
            *shared[kind],
            attn_mask=_visible(length, self.config.sliding_window if kind == "sliding_attention" else None),
            scale=1.0,
            enable_gqa=True,
        )
        attended = attended.transpose(1, 2).reshape(rows * length, -1)
        return self._after(attended, predictions, normed, ple, self._cutoffs[layer], own)
