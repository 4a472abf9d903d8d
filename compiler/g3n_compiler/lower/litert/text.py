"""Convert the ``prefill_N`` and ``decode`` signatures to TFLite, with their weights still graph inputs.

A converted graph holds no weight bytes, so converting takes no memory for them; :mod:`.bind_weights` then turns the
weight inputs into constants.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from g3n_compiler.lower.litert import flatbuffer
from g3n_compiler.lower.litert.batch_axis import restore_batch_axis
from g3n_compiler.lower.litert.context import is_adjustable, require_adjustable
from g3n_compiler.lower.litert.dialect import LiteRtDecoder, batch_matmul
from g3n_compiler.lower.signatures.text import (
    VERIFY_LENGTH,
    NestedModel,
    Signature,
    Verify,
    check_lengths,
    signatures,
    trace_inputs,
    verify_name,
)
from g3n_compiler.models.gemma3n.text_config import TextConfig, gemma3n_config
from g3n_compiler.slice.elastic import Size
from g3n_runtime.litert.elastic_names import signature_of


class LiteRtOps:
    """Cache operations as the TFLite operators DYNAMIC_UPDATE_SLICE, GATHER and BATCH_MATMUL."""

    def __init__(self) -> None:
        for module in ("litert_torch.generative.custom_ops.bmm_4d", "litert_torch.backend.experimental.torch_tfl"):
            importlib.import_module(module)
        updates = importlib.import_module("litert_torch.generative.custom_ops.dynamic_update_slice")
        # The composite takes the start as one tensor; four scalars become RESHAPE to no dimensions, which no GPU takes.
        self._update: Callable[[Tensor, Tensor, Tensor], Tensor] = updates.dynamic_update_slice_composite

    def update(self, cache: Tensor, chunk: Tensor, start: Tensor, axis: int) -> Tensor:
        zero = torch.zeros((1,), dtype=torch.int32)
        starts = torch.cat([start if i == axis else zero for i in range(4)])
        return self._update(cache, chunk, starts)

    def gather(self, x: Tensor, index: Tensor, axis: int) -> Tensor:
        return torch.ops.tfl.gather(x, index, axis)

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        return batch_matmul(a, b)

    def matmul_transposed(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.ops.litert_torch.bmm_4d(a, b)


def convert(
    config: TextConfig,
    context: int,
    prefill_lengths: Sequence[int],
    sizes: Sequence[Size] = (),
    cache_length: int | None = None,
    lora_rank: int = 0,
) -> bytes:
    """Convert the decoder for ``context`` positions to a TFLite flatbuffer whose weights are still graph inputs.

    The streams between layers are outputs until :mod:`.bind_weights` hides them. The same arguments give the same
    bytes. Smaller ``sizes`` get signatures of their own, see :func:`g3n_runtime.litert.elastic_names.signature_of`, and
    the largest size gets another signature that verifies their drafts.

    Args:
        cache_length: positions of the full caches, see :mod:`.context`; by default ``context``.
        lora_rank: rank of the adapters that the largest size takes as inputs; 0 for none.

    Raises:
        ContextError: a prefill length or the context does not fit the model.
    """
    check_lengths(config, context, prefill_lengths)
    modules: dict[str, tuple[Signature, int]] = signatures(
        config, prefill_lengths, LiteRtOps(), LiteRtDecoder, layer_outputs=True, lora_rank=lora_rank
    )
    if sizes:
        verify = Verify(config, LiteRtOps(), LiteRtDecoder, layer_outputs=True)
        modules[verify_name(VERIFY_LENGTH)] = (verify.eval(), VERIFY_LENGTH)
    for size in sizes:
        nested = NestedModel(config, size.rows)
        own = signatures(
            gemma3n_config(size.config), prefill_lengths, LiteRtOps(), LiteRtDecoder, layer_outputs=True, nested=nested
        )
        modules |= {signature_of(size.name, name): module for name, module in own.items()}
    positions = cache_length or context
    graph = convert_modules({n: (m, trace_inputs(m, positions, length)) for n, (m, length) in modules.items()})
    if is_adjustable(positions):
        require_adjustable(flatbuffer.parse(graph), positions)
    return graph


def convert_modules(modules: Mapping[str, tuple[nn.Module, Mapping[str, Any]]]) -> bytes:
    """Convert modules, each traced on its keyword inputs, into one flatbuffer with a signature for each."""
    import litert_torch

    converter = litert_torch.Converter()
    for name, (module, inputs) in modules.items():
        converter.signature(name, module.eval(), sample_kwargs=dict(inputs))
    with _without_progress(litert_torch.config), torch.no_grad():
        model = flatbuffer.parse(converter.convert().model_content())
    restore_batch_axis(model)
    return flatbuffer.pack(model)


@contextlib.contextmanager
def _without_progress(settings: Any) -> Iterator[None]:
    """Keep the converter's progress lines off standard output."""
    before = settings.show_progress
    settings.show_progress = False
    try:
        yield
    finally:
        settings.show_progress = before
