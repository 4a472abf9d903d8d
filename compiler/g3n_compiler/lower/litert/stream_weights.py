"""Quantise weights and stream them into a file, on every core; only a few blocks of rows are in memory at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from g3n_compiler.errors import NotFinite, TargetError
from g3n_compiler.models.weights import Read, WeightSpec
from g3n_compiler.quantize.recipe import Scheme
from g3n_compiler.quantize.rows import pack_rows, quantize_rows

BLOCK_BYTES = 8 << 20
"""Float32 bytes that a thread reads and quantises at a time."""


class Placed(NamedTuple):
    """A weight, its encoding, and the byte of the file at which it begins."""

    spec: WeightSpec
    scheme: Scheme
    offset: int


def check_scheme(spec: WeightSpec, scheme: Scheme) -> None:
    """Raise :class:`TargetError` if the weight cannot be laid out in ``scheme``."""
    if scheme.bits < 32 and len(spec.shape) != 2:
        raise TargetError(
            f"{spec.name} has shape {list(spec.shape)}: only a matrix can be {scheme.label}, so keep it fp32"
        )
    if spec.shape[-1] * scheme.bits % 8:
        raise TargetError(
            f"{spec.name} has rows of {spec.shape[-1]} values: in {scheme.label} they do not end on a whole byte, "
            "give it int8 by its name in a recipe of your own (--quant FILE.json)"
        )


def stream_weights(file: IO[bytes], weights: list[Placed], read: Read) -> list[np.ndarray]:
    """Write ``weights`` to their offsets and return each one's scales ``[rows]`` float32 (empty for float32).

    The bytes do not depend on the number of cores.

    Raises:
        NotFinite: a weight holds a NaN or an infinity; if several do, the first one is named.
    """
    scales = [np.empty(w.spec.shape[0] if w.scheme.bits < 32 else 0, np.float32) for w in weights]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        blocks: list[Future[None]] = []
        for weight, into in zip(weights, scales, strict=True):
            check_scheme(weight.spec, weight.scheme)
            blocks += [threads.submit(_write, file.fileno(), weight, read, rows, into) for rows in _blocks(weight.spec)]
        try:
            for block in blocks:
                block.result()
        finally:
            threads.shutdown(cancel_futures=True)
    return scales


def _write(fd: int, weight: Placed, read: Read, rows: tuple[int, int], scales: np.ndarray) -> None:
    begin, end = rows
    spec, scheme = weight.spec, weight.scheme
    value = _read_block(read, spec, begin, end)
    offset = weight.offset + scheme.nbytes((begin, *spec.shape[1:]))
    if scheme.bits == 32:
        _write_all(fd, value.contiguous().numpy(), offset)
        return
    quantized = quantize_rows(value, scheme)
    scales[begin:end] = quantized.scales.numpy()
    _write_all(fd, pack_rows(quantized, scheme).numpy(), offset)


def _write_all(fd: int, values: np.ndarray, offset: int) -> None:
    view = values.reshape(-1).view(np.uint8).data
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _blocks(spec: WeightSpec) -> Iterator[tuple[int, int]]:
    rows = spec.shape[0]
    width = max(1, int(np.prod(spec.shape[1:])))
    step = max(1, BLOCK_BYTES // (4 * width))
    return ((begin, min(begin + step, rows)) for begin in range(0, rows, step))


def _read_block(read: Read, spec: WeightSpec, begin: int, end: int) -> Tensor:
    value = read(spec) if (begin, end) == (0, spec.shape[0]) else read(spec, (begin, end))
    if tuple(value.shape) != (end - begin, *spec.shape[1:]):
        raise AssertionError(f"{spec.tensor} gave {list(value.shape)} for rows {begin}..{end} of {list(spec.shape)}")
    if not torch.isfinite(value).all():
        raise NotFinite(
            f"tensor {spec.tensor!r} holds a NaN or an infinity in rows {begin}..{end} of {spec.name}: "
            "the checkpoint is damaged or was trained in too small a float format"
        )
    return value
