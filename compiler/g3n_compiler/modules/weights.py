"""The decoder's weights: which there are, their shapes, where each lies in the checkpoint and how it is used.

A :class:`WeightSpec` may be a row range of a checkpoint tensor, so that a weight can be streamed, quantised and
sliced without a copy of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from g3n_compiler.checkpoint.config import TextConfig

Role = Literal["attention", "ffn", "linear", "head", "embedding", "ple", "vision", "audio", "float"]
"""What a weight is for; a quantization recipe gives each role a scheme. ``vision`` and ``audio`` are the matrices of
the towers. ``float`` is never quantised: norms, scales, biases, and the convolutions that are no matrix product."""


@dataclass(frozen=True)
class WeightSpec:
    """One weight of a graph: ``shape`` is what the graph sees; ``rows`` and ``columns`` select it from the tensor.

    ``tensor`` is a name within the text model, or that of a tower's tensor, which begins with the tower's name.

    ``axes`` permutes the dimensions of the checkpoint's tensor (a channels-first convolution) into the graph's; the
    trailing ones of a pointwise convolution are dropped.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    tensor: str
    rows: tuple[int, int] | None = None
    axes: tuple[int, ...] | None = None
    columns: tuple[tuple[int, int], ...] | None = None
    """Column ranges, side by side."""

    @property
    def input_name(self) -> str:
        """Name of the graph input that stands for this weight until its bytes are bound."""
        return "w_" + self.name.replace(".", "_")


class Read(Protocol):
    """Reads a weight as float32 in the graph's layout, all of it or rows ``[begin, end)`` of it."""

    def __call__(self, spec: WeightSpec, rows: tuple[int, int] | None = None) -> Tensor: ...


class Weights(Protocol):
    """How a decoder reaches its weights. Each backend has its own: graph inputs, quantised buffers, fake-quant."""

    def tensor(self, name: str) -> Tensor:
        """A float weight (norm gain, scale, AltUp coefficients)."""

    def linear(self, name: str, x: Tensor) -> Tensor:
        """``x [..., K] @ weight [N, K].T -> [..., N]``."""


class TensorWeights:
    """Weights held as plain float tensors, by name."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def tensor(self, name: str) -> Tensor:
        return self._tensors[name]

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self._tensors[name])


class LazyWeights:
    """Weights read when they are needed and not kept: a model of any size in the memory of one tensor."""

    def __init__(self, read: Read, specs: Mapping[str, WeightSpec]) -> None:
        self._read = read
        self._specs = specs

    def tensor(self, name: str) -> Tensor:
        return self._read(self._specs[name])

    def linear(self, name: str, x: Tensor) -> Tensor:
        return linear_by_rows(x, self._specs[name], self._read)


def linear_by_rows(x: Tensor, spec: WeightSpec, read: Read, block: int = 1 << 14) -> Tensor:
    """``x [..., K] @ weight [N, K].T -> [..., N]``, ``block`` rows of the weight in memory at a time."""
    ends = [*range(block, spec.shape[0], block), spec.shape[0]]
    return torch.cat([F.linear(x, read(spec, (max(0, end - 1) // block * block, end))) for end in ends], -1)


def text_weights(config: TextConfig) -> dict[str, WeightSpec]:
    """Every weight of the decoder, embeddings apart, in the order of use.

    ``per_layer_model_projection`` is cut by rows into one ``[ple_dim, hidden]`` weight for each layer, so that
    prefill pays for the layers it runs only.
    """
    c = config
    specs: dict[str, WeightSpec] = {}

    def add(
        name: str, shape: tuple[int, ...], role: Role, tensor: str = "", rows: tuple[int, int] | None = None
    ) -> None:
        suffix = "" if name.endswith("correct_output_scale") else ".weight"
        specs[name] = WeightSpec(name, shape, role, tensor or name + suffix, rows)

    def add_ffn(i: int) -> None:
        p, blocks, at = f"layers.{i}.mlp.", c.blocks(i), 0
        for block, width in enumerate(blocks):
            part = (at, at + width) if len(blocks) > 1 else None
            for name in ("gate_proj", "up_proj"):
                add(p + ffn_name(name, block), (width, c.hidden_size), "ffn", f"{p}{name}.weight", part)
            down = p + ffn_name("down_proj", block)
            columns = None if part is None else (part,)
            specs[down] = WeightSpec(down, (c.hidden_size, width), "ffn", f"{p}down_proj.weight", columns=columns)
            at += width

    for i in range(c.altup_num_inputs - 1):
        add(f"altup_projections.{i}", (c.hidden_size, c.hidden_size), "linear")
    add("per_layer_projection_norm", (c.ple_dim,), "float")
    for i in range(c.num_layers):
        p = f"layers.{i}."
        rows = (i * c.ple_dim, (i + 1) * c.ple_dim)
        add(
            p + "per_layer_model_projection",
            (c.ple_dim, c.hidden_size),
            "linear",
            "per_layer_model_projection.weight",
            rows,
        )
        add(p + "altup.router_norm", (c.hidden_size,), "float")
        add(p + "altup.modality_router", (c.altup_num_inputs, c.hidden_size), "float")
        add(p + "altup.prediction_coefs", (c.altup_num_inputs**2, c.altup_num_inputs), "float")
        add(p + "input_layernorm", (c.hidden_size,), "float")
        if i < c.num_kv_layers:
            add(p + "self_attn.k_proj", (c.num_kv_heads * c.head_dim, c.hidden_size), "attention")
            add(p + "self_attn.k_norm", (c.head_dim,), "float")
            add(p + "self_attn.v_proj", (c.num_kv_heads * c.head_dim, c.hidden_size), "attention")
        add(p + "self_attn.q_proj", (c.num_heads * c.head_dim, c.hidden_size), "attention")
        add(p + "self_attn.q_norm", (c.head_dim,), "float")
        add(p + "self_attn.o_proj", (c.hidden_size, c.num_heads * c.head_dim), "attention")
        add(p + "post_attention_layernorm", (c.hidden_size,), "float")
        add(p + "laurel.linear_left", (c.laurel_rank, c.hidden_size), "linear")
        add(p + "laurel.linear_right", (c.hidden_size, c.laurel_rank), "linear")
        add(p + "laurel.post_laurel_norm", (c.hidden_size,), "float")
        add(p + "pre_feedforward_layernorm", (c.hidden_size,), "float")
        add_ffn(i)
        add(p + "post_feedforward_layernorm", (c.hidden_size,), "float")
        add(p + "altup.correction_coefs", (c.altup_num_inputs, c.altup_num_inputs), "float")
        if c.altup_correct_scale:
            add(p + "altup.correct_output_scale", (c.hidden_size,), "float")
        add(p + "per_layer_input_gate", (c.ple_dim, c.hidden_size), "linear")
        add(p + "per_layer_projection", (c.hidden_size, c.ple_dim), "linear")
        add(p + "post_per_layer_input_norm", (c.hidden_size,), "float")
    for i in range(c.altup_num_inputs - 1):
        add(f"altup_unembed_projections.{i}", (c.hidden_size, c.hidden_size), "linear")
    add("norm", (c.hidden_size,), "float")
    add("lm_head", (c.vocab_size, c.hidden_size), "head", "embed_tokens.weight")
    return specs


def ffn_name(projection: str, block: int) -> str:
    """Name of a block of ``gate_proj``, ``up_proj`` or ``down_proj``; the first has the plain name."""
    return f"{projection}.{block}" if block else projection


def embedding_weights(config: TextConfig) -> dict[str, WeightSpec]:
    """The two tables: token embedding ``[vocab, hidden]`` and per-layer embedding ``[ple_vocab, layers * ple_dim]``.

    The latter is one for each of ``ple_groups`` where there are several, see :func:`ple_tables`.
    """
    c = config
    tokens = WeightSpec("embed_tokens", (c.vocab_size, c.hidden_size), "embedding", "embed_tokens.weight")
    return {"embed_tokens": tokens} | {spec.name: spec for spec in ple_tables(c)}


def ple_tables(config: TextConfig) -> list[WeightSpec]:
    """The per-layer table, as one for each of ``ple_groups``: ``[ple_vocab, layers of the group * ple_dim]``."""
    c, name = config, "embed_tokens_per_layer"
    groups = c.ple_groups or (tuple(range(c.num_layers)),)
    tables = []
    for number, layers in enumerate(groups):
        columns = tuple((i * c.ple_dim, (i + 1) * c.ple_dim) for i in layers) if len(groups) > 1 else None
        shape = (c.ple_vocab_size, len(layers) * c.ple_dim)
        own = f"{name}.{number}" if number else name
        tables.append(WeightSpec(own, shape, "ple", f"{name}.weight", columns=columns))
    return tables


def core_parameter_count(config: TextConfig) -> int:
    """Parameters that a device must hold: all but the two embedding tables ("effective" ones, as published).

    The keys and values projections of KV-shared layers count, as they do in the published figures.
    """
    width = config.num_kv_heads * config.head_dim
    dead = config.num_kv_shared_layers * (2 * width * config.hidden_size + config.head_dim)
    return dead + sum(math.prod(s.shape) for s in text_weights(config).values() if s.role != "head")


def parameter_count(config: TextConfig) -> int:
    """Parameters of the text model as a checkpoint stores them; the head is the token embedding."""
    return core_parameter_count(config) + sum(math.prod(s.shape) for s in embedding_weights(config).values())


def dead_weights(config: TextConfig) -> dict[str, str]:
    """Checkpoint tensors (relative names) that inference never reads, each with the reason."""
    reason = "the layer reads the KV cache of an earlier layer"
    dead = {
        f"layers.{i}.self_attn.{part}.weight": reason
        for i in range(config.num_kv_layers, config.num_layers)
        for part in ("k_proj", "v_proj", "k_norm")
    }
    if not config.altup_correct_scale:
        dead |= {
            f"layers.{i}.altup.correct_output_scale": "altup_correct_scale is off" for i in range(config.num_layers)
        }
    return dead
