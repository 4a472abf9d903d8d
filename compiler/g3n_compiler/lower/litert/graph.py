"""The decoder as LiteRT-LM's ``prefill_N`` and ``decode`` signatures, converted with its weights as graph inputs.

A converted graph holds no weight bytes, so converting takes no memory for them; :mod:`.bind` turns the weight inputs
into constants afterwards.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from g3n_compiler.checkpoint.config import TextConfig
from g3n_compiler.errors import ContextError
from g3n_compiler.lower.litert.cache import CacheOps, DecodeCache, PrefillCache, TorchOps, kv_cache_shapes
from g3n_compiler.modules.decoder import TextDecoder
from g3n_compiler.modules.weights import WeightSpec, text_weights

DECODE = "decode"


def prefill_name(length: int) -> str:
    """Name of the signature that takes ``length`` prompt tokens."""
    return f"prefill_{length}"


class LiteRtOps:
    """Cache operations as the TFLite operators DYNAMIC_UPDATE_SLICE, GATHER and BATCH_MATMUL."""

    def __init__(self) -> None:
        for module in (
            "litert_torch.generative.custom_ops.bmm_4d",
            "litert_torch.generative.custom_ops.dynamic_update_slice",
            "litert_torch.backend.experimental.torch_tfl",
        ):
            importlib.import_module(module)

    def update(self, cache: Tensor, chunk: Tensor, start: Tensor, axis: int) -> Tensor:
        zero = torch.zeros((1,), dtype=torch.int32)
        starts = torch.cat([start if i == axis else zero for i in range(4)])
        return torch.ops.litert_torch.dynamic_update_slice(cache, chunk, list(starts))

    def gather(self, x: Tensor, index: Tensor, axis: int) -> Tensor:
        return torch.ops.tfl.gather(x, index, axis)

    def matmul_transposed(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.ops.litert_torch.bmm_4d(a, b)


class GraphWeights:
    """Weights that are inputs of the graph; remembers which were used."""

    def __init__(self, inputs: Mapping[str, Tensor], specs: Mapping[str, WeightSpec]) -> None:
        self._inputs = inputs
        self._specs = specs
        self.used: dict[str, WeightSpec] = {}

    def tensor(self, name: str) -> Tensor:
        spec = self._specs[name]
        self.used[name] = spec
        return self._inputs[spec.input_name]

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.tensor(name))


class _Signature(nn.Module):
    """A signature's function. Weights come as one flat mapping by :attr:`WeightSpec.input_name`."""

    def __init__(self, config: TextConfig, ops: CacheOps | None = None) -> None:
        super().__init__()
        self.config = config
        self.ops = ops or TorchOps()
        self.specs = text_weights(config)


class Prefill(_Signature):
    """A padded chunk of prompt through the KV-owning layers.

    Returns:
        ``kv_cache_k_i`` and ``kv_cache_v_i`` after the chunk.
    """

    def forward(
        self,
        embeddings: Tensor,
        per_layer_embeddings: Tensor,
        input_pos: Tensor,
        mask: Tensor,
        kv_cache: Mapping[str, Tensor],
        **weights: Tensor,
    ) -> dict[str, Tensor]:
        """Shapes as :func:`sample_inputs` gives them for ``length`` tokens."""
        cache = PrefillCache(self.config, kv_cache, input_pos, mask, self.ops)
        decoder = TextDecoder(self.config, GraphWeights(weights, self.specs))
        decoder.prefill(embeddings, per_layer_embeddings, input_pos, cache)
        return cache.outputs()


class Decode(_Signature):
    """One token through every layer.

    Returns:
        ``logits [1, 1, vocab]`` float32 and the caches after the token.
    """

    def forward(
        self,
        embeddings: Tensor,
        per_layer_embeddings: Tensor,
        input_pos: Tensor,
        mask: Tensor,
        kv_cache: Mapping[str, Tensor],
        **weights: Tensor,
    ) -> dict[str, Tensor]:
        """Shapes as :func:`sample_inputs` gives them for one token."""
        cache = DecodeCache(self.config, kv_cache, input_pos, mask, self.ops)
        decoder = TextDecoder(self.config, GraphWeights(weights, self.specs))
        logits = decoder.decode(embeddings, per_layer_embeddings, input_pos, cache)
        return {**cache.outputs(), "logits": logits}


def signatures(config: TextConfig, prefill_lengths: Sequence[int], ops: CacheOps) -> dict[str, tuple[_Signature, int]]:
    """Module and token count of each signature, by name: prefills in rising length, then ``decode``."""
    out: dict[str, tuple[_Signature, int]] = {}
    for length in sorted(set(prefill_lengths)):
        out[prefill_name(length)] = (Prefill(config, ops).eval(), length)
    out[DECODE] = (Decode(config, ops).eval(), 1)
    return out


def sample_inputs(config: TextConfig, context: int, length: int) -> dict[str, Any]:
    """Inputs of a signature of ``length`` tokens, weights apart: zeros of the right shapes and dtypes."""
    c = config
    return {
        "embeddings": torch.zeros(1, length, c.hidden_size),
        "per_layer_embeddings": torch.zeros(1, length, c.num_layers, c.ple_dim),
        "input_pos": torch.arange(length, dtype=torch.int32),
        "mask": torch.zeros(1, 1, length, context),
        "kv_cache": {name: torch.zeros(shape) for name, shape in kv_cache_shapes(c, context).items()},
    }


def used_weights(module: _Signature, context: int, length: int) -> dict[str, WeightSpec]:
    """The weights that ``module`` reads, found by running it on tensors without data."""
    c = module.config
    with FakeTensorMode():
        inputs = sample_inputs(c, context, length)
        weights = GraphWeights({s.input_name: torch.empty(s.shape) for s in module.specs.values()}, module.specs)
        decoder = TextDecoder(c, weights)
        kind = PrefillCache if isinstance(module, Prefill) else DecodeCache
        cache = kind(c, inputs["kv_cache"], inputs["input_pos"], inputs["mask"], TorchOps())
        run = decoder.prefill if isinstance(module, Prefill) else decoder.decode
        run(inputs["embeddings"], inputs["per_layer_embeddings"], inputs["input_pos"], cache)
    return weights.used


def trace(config: TextConfig, context: int, prefill_lengths: Sequence[int]) -> dict[str, torch.export.ExportedProgram]:
    """The signatures as ``torch.export`` programs, as :func:`convert` converts them, to count and inspect."""
    check_lengths(config, context, prefill_lengths)
    programs: dict[str, torch.export.ExportedProgram] = {}
    for name, (module, length) in signatures(config, prefill_lengths, LiteRtOps()).items():
        programs[name] = torch.export.export(module, (), _inputs(module, context, length), strict=False)
    return programs


def convert(config: TextConfig, context: int, prefill_lengths: Sequence[int]) -> bytes:
    """Convert the decoder for ``context`` positions: a TFLite flatbuffer whose weights are still graph inputs.

    The same arguments give the same bytes.

    Raises:
        ContextError: a prefill length or the context does not fit the model.
    """
    import litert_torch

    check_lengths(config, context, prefill_lengths)
    converter = litert_torch.Converter()
    for name, (module, length) in signatures(config, prefill_lengths, LiteRtOps()).items():
        converter.signature(name, module, sample_kwargs=_inputs(module, context, length))
    with _without_progress(litert_torch.config), torch.no_grad():
        return bytes(converter.convert().model_content())


def check_lengths(config: TextConfig, context: int, prefill_lengths: Sequence[int]) -> None:
    """Raise :class:`ContextError` unless the lengths can be built."""
    if not 1 <= context <= config.max_context:
        raise ContextError(f"context {context} is outside 1..{config.max_context}, what the model was made for")
    if not prefill_lengths:
        raise ContextError("no prefill length given: name at least one, such as 128")
    for length in prefill_lengths:
        if not 1 <= length <= context:
            raise ContextError(f"prefill length {length} does not fit context {context}: use 1..{context}")


def _inputs(module: _Signature, context: int, length: int) -> dict[str, Any]:
    weights = used_weights(module, context, length)
    placeholders = {spec.input_name: torch.empty(spec.shape) for spec in weights.values()}
    return sample_inputs(module.config, context, length) | placeholders


@contextlib.contextmanager
def _without_progress(settings: Any) -> Iterator[None]:
    """Keep the converter's progress lines off standard output."""
    before = settings.show_progress
    settings.show_progress = False
    try:
        yield
    finally:
        settings.show_progress = before
