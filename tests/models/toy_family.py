"""A second family, as small as one can be: two head sizes, no AltUp, no LAUREL; all that the seam asks for.

It stands for what Gemma 4 differs in. Nothing outside this file knows it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from g3n_compiler.checkpoint.tensor_names import Naming, Prefix
from g3n_compiler.models.commuting import Channels, Producer, Turn
from g3n_compiler.models.family import Cut, KVCache, State, Streams
from g3n_compiler.models.published import PublishedModels
from g3n_compiler.models.shape import LayerType, TextShape
from g3n_compiler.models.weights import Role, Weights, WeightSpec
from g3n_compiler.source import LAYER, Source

KINDS: tuple[LayerType, ...] = ("sliding_attention", "full_attention")


@dataclass(frozen=True, kw_only=True)
class ToyShape(TextShape):
    family: str = "toy"
    num_heads: int
    num_kv_heads: int
    head_dims: Mapping[LayerType, int]

    def head_dim(self, layer: int) -> int:
        return self.head_dims[self.layer_types[layer]]

    def kv_width(self, layer: int) -> int:
        return self.num_kv_heads * self.head_dim(layer)

    def kept(self, layers: tuple[int, ...], ffn_dims: tuple[int, ...]) -> ToyShape:
        return replace(
            self,
            num_layers=len(layers),
            ffn_dims=ffn_dims,
            layer_types=tuple(self.layer_types[i] for i in layers),
            num_kv_shared_layers=sum(i >= self.num_kv_layers for i in layers),
        )


def norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6)


class ToyDecoder:
    """Pre-norm attention and FFN with residuals, and a per-layer embedding added after each layer."""

    def __init__(self, shape: ToyShape, weights: Weights) -> None:
        self.shape, self.weights = shape, weights

    def decode(self, embeddings: Tensor, ple: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
        state = self.begin(embeddings, ple, positions)
        for i in range(self.shape.num_layers):
            state = self.layer(i, state, cache)
        return self.logits(state.streams)

    def begin(self, embeddings: Tensor, ple: Tensor, positions: Tensor) -> State:
        return State((embeddings,), embeddings, ple, {})

    def layer(self, i: int, state: State, cache: KVCache, wanted: slice | Tensor | None = None) -> State:
        s, p, (x,) = self.shape, f"layers.{i}.", state.streams
        seen = norm(x)
        if i < s.num_kv_layers:
            key, value = (
                self.weights.linear(p + name, seen).view(1, -1, s.num_kv_heads, s.head_dim(i))
                for name in ("k_proj", "v_proj")
            )
            cache.append(i, key, value)
        if wanted is not None:
            state, seen, x = state.at(wanted), seen[:, wanted], x[:, wanted]
        query = self.weights.linear(p + "q_proj", seen).view(1, -1, s.num_heads, s.head_dim(i))
        x = x + self.weights.linear(p + "o_proj", cache.attend(s.kv_owner(i), query / math.sqrt(s.head_dim(i))))
        hidden = F.gelu(self.weights.linear(p + "gate_proj", norm(x))) * self.weights.linear(p + "up_proj", norm(x))
        x = x + self.weights.linear(p + "down_proj", hidden)
        x = x + self.weights.linear(p + "per_layer_projection", state.ple[:, :, i])
        return state._replace(streams=(x,))

    def logits(self, streams: Streams) -> Tensor:
        return self.weights.linear("lm_head", norm(streams[0]))


class ToyFamily:
    title = "Toy"
    model_types = ("toy",)
    published = PublishedModels()

    @property
    def towers(self) -> Mapping[str, Any]:
        return {}

    def naming(self, config: Mapping[str, Any]) -> Naming:
        return Naming((Prefix("model.", "its trainer"),))

    def text_shape(self, config: Mapping[str, Any], generation: Mapping[str, Any] | None) -> ToyShape:
        fields = {k: v for k, v in config.items() if k not in ("model_type", "head_dims")}
        lists = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return ToyShape(**lists, head_dims=dict(zip(KINDS, config["head_dims"], strict=True)))

    def text_weights(self, shape: TextShape) -> dict[str, WeightSpec]:
        assert isinstance(shape, ToyShape)
        specs: dict[str, WeightSpec] = {}

        def add(name: str, rows: int, columns: int, role: Role, tensor: str | None = None) -> None:
            specs[name] = WeightSpec(name, (rows, columns), role, tensor or f"{name}.weight")

        for i in range(shape.num_layers):
            p, queries = f"layers.{i}.", shape.num_heads * shape.head_dim(i)
            add(p + "q_proj", queries, shape.hidden_size, "attention")
            if i < shape.num_kv_layers:
                add(p + "k_proj", shape.kv_width(i), shape.hidden_size, "attention")
                add(p + "v_proj", shape.kv_width(i), shape.hidden_size, "attention")
            add(p + "o_proj", shape.hidden_size, queries, "attention")
            add(p + "gate_proj", shape.ffn_dims[i], shape.hidden_size, "ffn")
            add(p + "up_proj", shape.ffn_dims[i], shape.hidden_size, "ffn")
            add(p + "down_proj", shape.hidden_size, shape.ffn_dims[i], "ffn")
            add(p + "per_layer_projection", shape.hidden_size, shape.ple_dim, "linear")
        add("lm_head", shape.vocab_size, shape.hidden_size, "head", "embed_tokens.weight")
        return specs

    def dead_weights(self, shape: TextShape) -> dict[str, str]:
        shared = range(shape.num_kv_layers, shape.num_layers)
        return {f"layers.{i}.{n}.weight": "shared keys and values" for i in shared for n in ("k_proj", "v_proj")}

    def core_parameters(self, shape: TextShape) -> int:
        return sum(math.prod(s.shape) for s in self.text_weights(shape).values() if s.role != "head")

    def cut(self, shape: TextShape, kept: Sequence[int], tensor: str) -> Cut:
        if tensor == "embed_tokens_per_layer.weight":
            return Cut(columns=tuple((i * shape.ple_dim, (i + 1) * shape.ple_dim) for i in kept))
        match = LAYER.fullmatch(tensor)
        width = None if match is None else ((0, shape.ffn_dims[int(match[1])]),)
        if match is not None and match[2] in ("gate_proj.weight", "up_proj.weight"):
            return Cut(rows=width)
        return Cut(columns=width) if match is not None and match[2] == "down_proj.weight" else Cut()

    def channels(self, shape: TextShape) -> list[Channels]:
        layers = [f"layers.{i}." for i in range(shape.num_layers)]
        return [Channels(p, (Producer(p + "up_proj.weight"),), (p + "down_proj.weight",)) for p in layers]

    def turns(self, shape: TextShape) -> list[Turn]:
        return []

    def vision(self, source: Source) -> None:
        return None

    def audio(self, source: Source) -> None:
        return None

    def hard_token_rows(self, source: Source) -> None:
        return None

    def decoder(self, shape: TextShape, weights: Weights) -> ToyDecoder:
        assert isinstance(shape, ToyShape)
        return ToyDecoder(shape, weights)

    def load_transformers(self, source: Source) -> Any:
        raise NotImplementedError("transformers has no toy")


CONFIG: dict[str, Any] = {
    "model_type": "toy",
    "hidden_size": 32,
    "num_layers": 5,
    "ffn_dims": [64] * 5,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention", "sliding_attention"],
    "num_kv_shared_layers": 2,
    "sliding_window": 4,
    "vocab_size": 96,
    "ple_vocab_size": 80,
    "ple_dim": 8,
    "max_context": 64,
    "bos_id": 2,
    "pad_id": 0,
    "eos_ids": [1],
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dims": [8, 16],
}


def save_toy(folder: Path) -> dict[str, Tensor]:
    """Write a random checkpoint of the toy family to ``folder``; returns its tensors by their full names."""
    shape = ToyFamily().text_shape(CONFIG, None)
    generator = torch.Generator().manual_seed(0)
    whole = replace(shape, num_kv_shared_layers=0)  # as published checkpoints do, it stores what shared layers lack
    shapes = {spec.tensor: spec.shape for spec in ToyFamily().text_weights(whole).values()}
    shapes["embed_tokens_per_layer.weight"] = (shape.ple_vocab_size, shape.num_layers * shape.ple_dim)
    tensors = {f"model.{name}": torch.randn(s, generator=generator) * 0.3 for name, s in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return tensors
