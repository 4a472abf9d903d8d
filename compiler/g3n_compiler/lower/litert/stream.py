"""Stream a weight's rows, quantised, into a file: memory stays at one block whatever the size of the tensor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

import numpy as np
import torch
from torch import Tensor

from g3n_compiler.errors import NotFinite, TargetError
from g3n_compiler.modules.weights import Read, WeightSpec
from g3n_compiler.quantize.recipe import Scheme
from g3n_compiler.quantize.rows import pack_rows, quantize_rows

BLOCK_BYTES = 16 << 20
"""Float32 bytes read and quantised at a time."""


def check_scheme(spec: WeightSpec, scheme: Scheme) -> None:
    """Raise :class:`TargetError` if the weight cannot be laid out in ``scheme``."""
    if scheme.bits < 32 and len(spec.shape) != 2:
        raise TargetError(
            f"{spec.name} has shape {list(spec.shape)}: only a matrix can be {scheme.label}, leave it fp32"
        )
    if scheme.bits == 4 and spec.shape[1] % 2:
        raise TargetError(
            f"{spec.name} has rows of {spec.shape[1]} values: int4 rows must be even to end on a whole byte, "
            "give it int8 by a pattern in the recipe"
        )


def stream_rows(file: IO[bytes], offset: int, read: Read, spec: WeightSpec, scheme: Scheme) -> np.ndarray:
    """Write ``spec`` at ``offset`` and return its scales ``[rows]`` float32 (empty when it stays in float32).

    Raises:
        NotFinite: the weight holds a NaN or an infinity.
    """
    check_scheme(spec, scheme)
    file.seek(offset)
    scales = []
    for block in _blocks(read, spec):
        if scheme.bits == 32:
            file.write(block.contiguous().numpy().tobytes())
            continue
        quantized = quantize_rows(block, scheme)
        scales.append(quantized.scales.numpy())
        file.write(pack_rows(quantized, scheme).numpy().tobytes())
    return np.concatenate(scales) if scales else np.empty(0, np.float32)


def _blocks(read: Read, spec: WeightSpec) -> Iterator[Tensor]:
    rows = spec.shape[0]
    width = max(1, int(np.prod(spec.shape[1:])))
    step = max(1, BLOCK_BYTES // (4 * width))
    for begin in range(0, rows, step):
        end = min(begin + step, rows)
        block = read(spec) if step >= rows else read(spec, (begin, end))
        if tuple(block.shape) != (end - begin, *spec.shape[1:]):
            raise AssertionError(
                f"{spec.tensor} gave {list(block.shape)} for rows {begin}..{end} of {list(spec.shape)}"
            )
        if not torch.isfinite(block).all():
            raise NotFinite(
                f"tensor {spec.tensor!r} holds a NaN or an infinity in rows {begin}..{end} of {spec.name}: "
                "the checkpoint is damaged or was trained in too small a float format"
            )
        yield block
