"""The exported entry points ``prefill_N`` and ``decode``: functional, with weights and caches as inputs.

The contract is LiteRT-LM's; onnxruntime runs the same modules. ExecuTorch, which keeps its caches inside the program,
has its entry points in :mod:`g3n_compiler.lower.executorch.methods`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from g3n_compiler.errors import ContextError
from g3n_compiler.lower.signatures.cache import (
    CacheOps,
    DecodeCache,
    ExternalCache,
    PrefillCache,
    TorchOps,
    kv_cache_shapes,
)
from g3n_compiler.lower.signatures.lora import LoraInputs, lora_inputs
from g3n_compiler.models.dialect import Dialect
from g3n_compiler.models.family import Streams
from g3n_compiler.models.gemma3n.decoder import TextDecoder
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.models.registry import text_weights
from g3n_compiler.models.weights import WeightSpec
from g3n_runtime.litert.elastic_names import VERIFY_PREFIX

DECODE = "decode"
NO_ADAPTERS: Mapping[str, LoraInputs] = MappingProxyType({})
VERIFY_LENGTH = 5
"""Tokens that the largest of several sizes verifies in one call: a draft of four tokens, after the token before it."""


def streams_name(layer: int) -> str:
    """Name of AltUp's streams as ``layer`` outputs them; a graph can be run in part between two such tensors."""
    return f"layer_{layer}_streams"


def are_streams(name: str) -> bool:
    """Whether ``name`` is one that :func:`streams_name` returns."""
    return re.fullmatch(r"layer_\d+_streams", name) is not None


def prefill_name(length: int) -> str:
    """Name of the signature that takes ``length`` prompt tokens."""
    return f"prefill_{length}"


def verify_name(length: int) -> str:
    """Name of the signature that gives logits after each of ``length`` tokens."""
    return f"{VERIFY_PREFIX}{length}"


class GraphWeights:
    """Weights that are inputs of the graph, and so are the adapters of some; records which weights are used."""

    def __init__(
        self,
        inputs: Mapping[str, Tensor],
        specs: Mapping[str, WeightSpec],
        lora: Mapping[str, LoraInputs] = NO_ADAPTERS,
    ) -> None:
        self._inputs = inputs
        self._specs = specs
        self._lora = lora
        self.used: dict[str, WeightSpec] = {}

    def tensor(self, name: str) -> Tensor:
        spec = self._specs[name]
        self.used[name] = spec
        return self._inputs[spec.input_name]

    def linear(self, name: str, x: Tensor) -> Tensor:
        y = F.linear(x, self.tensor(name))
        pair = self._lora.get(name)
        return y if pair is None else y + (x @ self._inputs[pair.a]) @ self._inputs[pair.b]


class NestedModel(Dialect):
    """A size within the larger model ``whole``: its layer ``i`` is ``whole``'s layer ``rows[i]``.

    As a dialect it picks a layer's own rows out of the rows of all layers.
    """

    def __init__(self, whole: TextConfig, rows: tuple[int, ...]) -> None:
        self.whole, self.rows = whole, rows

    def weights(self, config: TextConfig) -> dict[str, WeightSpec]:
        """The weights of ``whole``, by the names that the size of shape ``config`` has for them."""
        specs = text_weights(self.whole)
        return {name: specs[self._in_whole(name)] for name in text_weights(config)}

    def layer_rows(self, ple: Tensor, i: int) -> Tensor:
        return ple[:, :, self.rows[i]]

    def _in_whole(self, name: str) -> str:
        return re.sub(r"^layers\.(\d+)\.", lambda match: f"layers.{self.rows[int(match[1])]}.", name)


class Signature(nn.Module):
    """A signature's function. Weights come as one flat mapping by :attr:`WeightSpec.input_name`.

    A subclass says which cache it fills and what it computes.

    Args:
        ops: how caches are written.
        decoder: the decoder in the form that suits a backend.
        layer_outputs: also return the streams between layers, under :func:`streams_name`; for a decoder that keeps them
            as one tensor.
        nested: the model's place in a larger one, whose weights and per-layer inputs it uses.
        lora_rank: rank of the adapters that the signature takes as inputs; 0 if it takes none.
    """

    cache_type: type[DecodeCache] | type[PrefillCache]

    def __init__(
        self,
        config: TextConfig,
        ops: CacheOps | None = None,
        decoder: type[TextDecoder] = TextDecoder,
        layer_outputs: bool = False,
        nested: NestedModel | None = None,
        lora_rank: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        self.decoder_type = decoder
        self.ops = ops or TorchOps()
        self.layer_outputs = layer_outputs
        self.nested = nested or NestedModel(config, tuple(range(config.num_layers)))
        self.specs = self.nested.weights(config)
        self.lora = lora_inputs(self.specs, lora_rank)

    def build(self, weights: Mapping[str, Tensor], streams: dict[str, Tensor]) -> TextDecoder:
        """The decoder over ``weights``, adapters among them; it adds the streams to be returned to ``streams``."""

        def observe(layer: int, found: Streams) -> None:
            if self.layer_outputs:
                streams[streams_name(layer)] = found

        read = GraphWeights(weights, self.specs, self.lora)
        return self.decoder_type(self.config, read, self.nested, observe)

    def run(
        self, decoder: TextDecoder, embeddings: Tensor, ple: Tensor, positions: Tensor, cache: ExternalCache
    ) -> dict[str, Tensor]:
        """Run the decoder and fill the caches; returns what the signature gives besides them."""
        raise NotImplementedError

    def forward(
        self,
        embeddings: Tensor,
        per_layer_embeddings: Tensor,
        input_pos: Tensor,
        mask: Tensor,
        kv_cache: Mapping[str, Tensor],
        **weights: Tensor,
    ) -> dict[str, Tensor]:
        """Shapes are those of :func:`sample_inputs`. The caches come first, then :meth:`run`'s, then the streams."""
        cache = self.cache_type(self.config, kv_cache, input_pos, mask, self.ops)
        streams: dict[str, Tensor] = {}
        found = self.run(self.build(weights, streams), embeddings, per_layer_embeddings, input_pos, cache)
        return cache.outputs() | found | streams


class Prefill(Signature):
    """A padded chunk of prompt through the KV-owning layers.

    Returns:
        ``kv_cache_k_i`` and ``kv_cache_v_i`` after the chunk.
    """

    cache_type = PrefillCache

    def run(
        self, decoder: TextDecoder, embeddings: Tensor, ple: Tensor, positions: Tensor, cache: ExternalCache
    ) -> dict[str, Tensor]:
        decoder.prefill(embeddings, ple, positions, cache)
        return {}


class WithLogits(Signature):
    """Tokens through every layer.

    Returns:
        ``logits [1, T, vocab]`` float32 after each of ``T`` tokens and the caches after them.
    """

    def run(
        self, decoder: TextDecoder, embeddings: Tensor, ple: Tensor, positions: Tensor, cache: ExternalCache
    ) -> dict[str, Tensor]:
        return {"logits": decoder.decode(embeddings, ple, positions, cache)}


class Decode(WithLogits):
    """One token."""

    cache_type = DecodeCache


class Verify(WithLogits):
    """A padded chunk of drafted tokens."""

    cache_type = PrefillCache


def signatures(
    config: TextConfig,
    prefill_lengths: Sequence[int],
    ops: CacheOps,
    decoder: type[TextDecoder] = TextDecoder,
    layer_outputs: bool = False,
    nested: NestedModel | None = None,
    lora_rank: int = 0,
) -> dict[str, tuple[Signature, int]]:
    """Module and token count of each signature, by name: prefills in ascending length, then ``decode``."""
    out: dict[str, tuple[Signature, int]] = {}
    for length in sorted(set(prefill_lengths)):
        out[prefill_name(length)] = (Prefill(config, ops, decoder, layer_outputs, nested, lora_rank).eval(), length)
    out[DECODE] = (Decode(config, ops, decoder, layer_outputs, nested, lora_rank).eval(), 1)
    return out


def sample_inputs(config: TextConfig, context: int, length: int) -> dict[str, Any]:
    """Inputs of a signature of ``length`` tokens, other than weights: zeros of the right shapes and dtypes."""
    c = config
    return {
        "embeddings": torch.zeros(1, length, c.hidden_size),
        "per_layer_embeddings": torch.zeros(1, length, c.num_layers, c.ple_dim),
        "input_pos": torch.arange(length, dtype=torch.int32),
        "mask": torch.zeros(1, 1, length, context),
        "kv_cache": {name: torch.zeros(shape) for name, shape in kv_cache_shapes(c, context).items()},
    }


def used_weights(module: Signature, context: int, length: int) -> dict[str, WeightSpec]:
    """The weights that ``module`` reads, found by running it on tensors without data."""
    c = module.config
    with FakeTensorMode():
        inputs = sample_inputs(c, context, length)
        weights = GraphWeights({s.input_name: torch.empty(s.shape) for s in module.specs.values()}, module.specs)
        decoder = TextDecoder(c, weights)
        cache = module.cache_type(c, inputs["kv_cache"], inputs["input_pos"], inputs["mask"], TorchOps())
        module.run(decoder, inputs["embeddings"], inputs["per_layer_embeddings"], inputs["input_pos"], cache)
    return weights.used


def trace(
    config: TextConfig, context: int, prefill_lengths: Sequence[int], ops: CacheOps
) -> dict[str, torch.export.ExportedProgram]:
    """The signatures as ``torch.export`` programs, to count and inspect."""
    check_lengths(config, context, prefill_lengths)
    programs: dict[str, torch.export.ExportedProgram] = {}
    for name, (module, length) in signatures(config, prefill_lengths, ops).items():
        programs[name] = torch.export.export(module, (), trace_inputs(module, context, length), strict=False)
    return programs


def check_lengths(config: TextConfig, context: int, prefill_lengths: Sequence[int]) -> None:
    """Raise :class:`ContextError` unless the lengths can be built."""
    if not 1 <= context <= config.max_context:
        raise ContextError(f"context {context} is outside 1 to {config.max_context}, which the model supports")
    if not prefill_lengths:
        raise ContextError("no prefill length given: name at least one, such as 128")
    for length in prefill_lengths:
        if not 1 <= length <= context:
            raise ContextError(f"prefill length {length} does not fit context {context}: use 1 to {context}")


def trace_inputs(module: Signature, context: int, length: int) -> dict[str, Any]:
    """Inputs to trace ``module`` on; each weight that it reads is a placeholder without data."""
    weights = used_weights(module, context, length)
    placeholders = {spec.input_name: torch.empty(spec.shape) for spec in weights.values()}
    pairs = [module.lora[name].shapes for name in weights if name in module.lora]
    adapters = {name: torch.empty(shape) for shapes in pairs for name, shape in shapes.items()}
    inputs = sample_inputs(module.config, context, length) | placeholders | adapters
    whole = module.nested.whole
    inputs["per_layer_embeddings"] = torch.zeros(1, length, whole.num_layers, whole.ple_dim)
    return inputs
