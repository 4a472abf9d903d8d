"""The decoder as modules that XNNPACK takes whole; the KV caches and all else that is not arithmetic lie between them.

========================= ============================================ ===============================================
module                    inputs                                       outputs
========================= ============================================ ===============================================
``FanOut``                embeddings                                   AltUp's other streams
``PredictWithKeysValues`` streams, cos, sin                            predicted streams, normalised active stream,
                                                                       key, value
``Predict``               streams                                      predicted streams, normalised active stream
``LayerBody``             predicted, normalised, embeddings, ple, cos, streams
                          sin, mask, keys, values
``Logits``                streams of one token                         logits
========================= ============================================ ===============================================

A layer that owns a KV cache is a ``PredictWithKeysValues`` and a ``LayerBody``; a layer that shares one is a
``Predict`` and a ``LayerBody``. Shapes: streams and embeddings ``[T, 1, hidden]``; ple ``[1, T, ple_dim]``; cos and sin
``[1, T, 1, head_dim]``; a chunk's key ``[kv_heads, head_dim, T]`` and value ``[kv_heads, T, head_dim]``; cached ones
the same with S slots in place of T; mask ``[1, groups * T, S]``; logits ``[1, 1, vocab]``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from g3n_compiler.lower.executorch.dialect import XnnpackDecoder, XnnpackDialect
from g3n_compiler.lower.executorch.weights import XnnpackWeights
from g3n_compiler.models.family import State
from g3n_compiler.models.gemma3n.text_config import TextConfig

ROUTER = ("altup.router_norm", "altup.modality_router")
PREDICTION = (*ROUTER, "altup.prediction_coefs", "input_layernorm")
KEY_VALUE = ("self_attn.k_proj", "self_attn.k_norm", "self_attn.v_proj")
NORM_OF_PLE = "per_layer_projection_norm"

Axes = tuple[dict[int, Any], ...]
"""The dynamic axes of each input."""


class DecoderPiece(nn.Module):
    """One module over ``weights``; modules before and after the layers ignore ``layer``."""

    def __init__(self, config: TextConfig, weights: XnnpackWeights, layer: int = 0) -> None:
        super().__init__()
        self.config = config
        self.weights = weights
        self.dialect = XnnpackDialect(config)
        self.layer = layer

    @property
    def decoder(self) -> XnnpackDecoder:
        return XnnpackDecoder(self.config, self.weights, self.dialect)

    @staticmethod
    @abstractmethod
    def weight_names(names: Iterable[str], config: TextConfig, layer: int) -> list[str]:
        """Those of ``names`` that the module uses."""

    @abstractmethod
    def example(self, tokens: int, slots: int) -> tuple[Tensor, ...]:
        """Inputs to trace the module on."""

    @abstractmethod
    def axes(self, tokens: Any, slots: Any) -> Axes:
        """The axes of the inputs that are the number of tokens or of the cache's slots."""

    @abstractmethod
    def outputs(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Tensors with the shapes of the outputs for ``inputs``."""

    def _stream(self, tokens: int) -> Tensor:
        return torch.zeros(tokens, 1, self.config.hidden_size)

    def _rope(self, tokens: int) -> Tensor:
        return torch.zeros(1, tokens, 1, self.config.head_dim)


class FanOut(DecoderPiece):
    """``embeddings`` -> the streams after the first."""

    @staticmethod
    def weight_names(names: Iterable[str], config: TextConfig, layer: int) -> list[str]:
        return [name for name in names if name.startswith("altup_projections.")]

    def example(self, tokens: int, slots: int) -> tuple[Tensor, ...]:
        return (self._stream(tokens),)

    def axes(self, tokens: Any, slots: Any) -> Axes:
        return ({0: tokens},)

    def outputs(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(inputs[0]) for _ in range(self.config.altup_num_inputs - 1))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.decoder.fan_out(inputs[0])


class Predict(DecoderPiece):
    """``*streams`` -> ``*predicted, normalised``."""

    @staticmethod
    def weight_names(names: Iterable[str], config: TextConfig, layer: int) -> list[str]:
        return _of_layer(names, layer, lambda part: part in PREDICTION)

    def example(self, tokens: int, slots: int) -> tuple[Tensor, ...]:
        return tuple(self._stream(tokens) for _ in range(self.config.altup_num_inputs))

    def axes(self, tokens: Any, slots: Any) -> Axes:
        return ({0: tokens},) * self.config.altup_num_inputs

    def outputs(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(x) for x in (*inputs, inputs[0]))

    def forward(self, *streams: Tensor) -> tuple[Tensor, ...]:
        decoder = self.decoder
        predicted = decoder.predict(self.layer, streams)
        active = predicted[self.config.altup_active_idx]
        return (*predicted, decoder.norm(f"layers.{self.layer}.input_layernorm", active))


class PredictWithKeysValues(Predict):
    """``*streams, cos, sin`` -> ``*predicted, normalised, key, value``."""

    @staticmethod
    def weight_names(names: Iterable[str], config: TextConfig, layer: int) -> list[str]:
        return _of_layer(names, layer, lambda part: part in (*PREDICTION, *KEY_VALUE))

    def example(self, tokens: int, slots: int) -> tuple[Tensor, ...]:
        return (*super().example(tokens, slots), self._rope(tokens), self._rope(tokens))

    def axes(self, tokens: Any, slots: Any) -> Axes:
        return (*super().axes(tokens, slots), {1: tokens}, {1: tokens})

    def outputs(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        c, first = self.config, inputs[0]
        key = first.new_empty(c.num_kv_heads, c.head_dim, first.shape[0])
        value = first.new_empty(c.num_kv_heads, first.shape[0], c.head_dim)
        return (*super().outputs(*inputs[:-2]), key, value)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        *streams, cos, sin = inputs
        opened = super().forward(*streams)
        fresh = _NewKeysValues()
        self.decoder.keys_values(self.layer, opened[-1], {self.config.layer_types[self.layer]: (cos, sin)}, fresh)
        return (*opened, fresh.key, fresh.value)


class LayerBody(DecoderPiece):
    """``*predicted, normalised, embeddings, ple, cos, sin, mask, keys, values`` -> ``*streams``."""

    @staticmethod
    def weight_names(names: Iterable[str], config: TextConfig, layer: int) -> list[str]:
        opening = {*PREDICTION, *KEY_VALUE}.difference(ROUTER)
        own = _of_layer(names, layer, lambda part: part not in opening)
        return [*own, *(name for name in names if name == NORM_OF_PLE)]

    def example(self, tokens: int, slots: int) -> tuple[Tensor, ...]:
        c = self.config
        rows = c.num_heads // c.num_kv_heads * tokens
        return (
            *(self._stream(tokens) for _ in range(c.altup_num_inputs + 2)),
            torch.zeros(1, tokens, c.ple_dim),
            self._rope(tokens),
            self._rope(tokens),
            torch.zeros(1, rows, slots),
            torch.zeros(c.num_kv_heads, c.head_dim, slots),
            torch.zeros(c.num_kv_heads, slots, c.head_dim),
        )

    def axes(self, tokens: Any, slots: Any) -> Axes:
        c = self.config
        groups = c.num_heads // c.num_kv_heads
        rows = groups * tokens if groups > 1 else tokens
        by_token = ({0: tokens},) * (c.altup_num_inputs + 2)
        return (*by_token, {1: tokens}, {1: tokens}, {1: tokens}, {1: rows, 2: slots}, {2: slots}, {1: slots})

    def outputs(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(x) for x in inputs[: self.config.altup_num_inputs])

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        n = self.config.altup_num_inputs
        predicted, (x, embeddings, ple, cos, sin, mask, keys, values) = inputs[:n], inputs[n:]
        state = State(predicted, embeddings, ple, {self.config.layer_types[self.layer]: (cos, sin)})
        return self.decoder.block(self.layer, predicted, x, state, _CachedKeysValues(mask, keys, values)).streams


class Logits(DecoderPiece):
    """``*streams`` of one token -> its logits."""

    @staticmethod
    def weight_names(names: Iterable[str], config: TextConfig, layer: int) -> list[str]:
        return [n for n in names if n.startswith("altup_unembed_projections.") or n in ("norm", "lm_head")]

    def example(self, tokens: int, slots: int) -> tuple[Tensor, ...]:
        return tuple(self._stream(1) for _ in range(self.config.altup_num_inputs))

    def axes(self, tokens: Any, slots: Any) -> Axes:
        return ({},) * self.config.altup_num_inputs

    def outputs(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (inputs[0].new_empty(1, 1, self.config.vocab_size),)

    def forward(self, *streams: Tensor) -> tuple[Tensor, ...]:
        return (self.decoder.logits(streams),)


class _NewKeysValues:
    """:class:`~g3n_compiler.models.family.KVCache` that collects a chunk's key and value, with their axes in the
    cache's order.
    """

    key: Tensor
    value: Tensor

    def append(self, layer: int, key: Tensor, value: Tensor) -> None:
        heads, dim = key.shape[2:]
        self.key = torch.permute_copy(key, (0, 2, 3, 1)).view(heads, dim, -1)
        self.value = torch.permute_copy(value, (0, 2, 1, 3)).view(heads, -1, dim)

    def attend(self, layer: int, query: Tensor) -> Tensor:
        raise NotImplementedError("a module that computes keys and values does not attend")


class _CachedKeysValues:
    """:class:`~g3n_compiler.models.family.KVCache` of one layer whose keys and values are already written."""

    def __init__(self, mask: Tensor, keys: Tensor, values: Tensor) -> None:
        self._mask, self._keys, self._values = mask, keys, values

    def append(self, layer: int, key: Tensor, value: Tensor) -> None:
        raise NotImplementedError("the keys and values of this layer are already in the cache")

    def attend(self, layer: int, query: Tensor) -> Tensor:
        """``query [1, T, heads, head_dim]`` -> ``[T, 1, heads * head_dim]``."""
        heads, dim = query.shape[2:]
        # The heads of a group become rows of one matrix, so that one product serves them all.
        query = torch.permute_copy(query, (0, 2, 1, 3)).view(self._keys.shape[0], -1, dim)
        scores = torch.bmm(query, self._keys) + self._mask
        out = torch.bmm(torch.softmax(scores, -1), self._values).view(heads, -1, dim)
        return torch.permute_copy(out, (1, 0, 2)).view(-1, 1, heads * dim)


class DecoderPieces(nn.Module):
    """All modules in their places, as PyTorch modules or as delegates with the same signatures.

    Args:
        make: returns the module or delegate for a kind of module at a layer.
    """

    def __init__(self, config: TextConfig, make: Callable[[type[DecoderPiece], int], nn.Module]) -> None:
        super().__init__()
        layers, owners = range(config.num_layers), config.num_kv_layers
        self.begin = make(FanOut, 0)
        self.openings = nn.ModuleList(make(PredictWithKeysValues if i < owners else Predict, i) for i in layers)
        self.blocks = nn.ModuleList(make(LayerBody, i) for i in layers)
        self.logits = make(Logits, 0)


def _of_layer(names: Iterable[str], layer: int, wanted: Callable[[str], bool]) -> list[str]:
    prefix = f"layers.{layer}."
    return [name for name in names if name.startswith(prefix) and wanted(name.removeprefix(prefix))]
