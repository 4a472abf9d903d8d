"""Integer arithmetic of weight quantization, row by row, so that a table of any size can be streamed.

The same integers and scales go into every backend and into the fake-quant reference.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from g3n_compiler.quantize.recipe import Scheme

Array = np.ndarray[Any, np.dtype[np.float32]]
CACHED_VALUES = 1 << 18
"""Values processed at a time, so that repeated passes over them stay in a core's cache."""
CLIP_RATIOS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65)
"""Candidate scales of the clip search, relative to the one for the row's largest magnitude."""
MORE_CLIP_RATIOS = (*CLIP_RATIOS, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2)
"""Those for 2 bits: with -1, 0 and 1 alone, the best scale is near the row's usual magnitude."""


class QuantizedRows(NamedTuple):
    """``values [R, K]`` int8 and ``scales [R]`` float32: ``weight ~ values * scales[:, None]``."""

    values: Tensor
    scales: Tensor

    def dequantize(self) -> Tensor:
        return self.values.float() * self.scales[:, None]


def quantize_rows(weight: Tensor, scheme: Scheme) -> QuantizedRows:
    """Quantise ``weight [R, K]`` float32 symmetrically with one scale per row; an all-zero row gets scale 1.

    This uses one CPU core and lets other threads run, so a caller with many rows can divide them among threads.
    """
    rows = weight.contiguous().numpy()
    values, scales = np.empty(rows.shape, np.int8), np.empty(len(rows), np.float32)
    step = max(1, CACHED_VALUES // max(1, rows.shape[1]))
    scratch = np.empty((min(step, len(rows)), rows.shape[1]), np.float32)
    for begin in range(0, len(rows), step):
        block = rows[begin : begin + step]
        rounded = scratch[: len(block)]
        chosen = _clipped_scales(block, scheme, rounded) if scheme.clip_search else _scales(_largest(block), scheme)
        scales[begin : begin + step] = chosen
        _round(block, chosen, scheme, rounded)
        values[begin : begin + step] = rounded
    return QuantizedRows(torch.from_numpy(values), torch.from_numpy(scales))


def fake_quantize(weight: Tensor, scheme: Scheme) -> Tensor:
    """``weight [R, K]`` as the backend sees it after dequantization; float32 schemes leave it unchanged."""
    return weight if scheme.bits == 32 else quantize_rows(weight, scheme).dequantize()


def pack_rows(rows: QuantizedRows, scheme: Scheme) -> Tensor:
    """Bytes ``[R, K * bits / 8]`` uint8 in TFLite's layout: two int4 or four int2 values per byte, the first in the
    lowest bits.
    """
    values, bits = rows.values.view(torch.uint8), scheme.bits
    if bits == 8:
        return values
    packed, mask = torch.zeros_like(values[:, :: 8 // bits]), (1 << bits) - 1
    for place in range(8 // bits):
        packed |= (values[:, place :: 8 // bits] & mask) << (place * bits)
    return packed


def fake_quantize_activations(x: Tensor) -> Tensor:
    """Round ``x [..., K]`` to the int8 grid that XNNPACK's ``qd8`` linear layers choose for each row (min-max).

    The operations are in the order of ``xnn_f32_qd8_asymmetric_quantization_params``, so that ties are rounded the same
    way; rows of integers times a scale have many ties.
    """
    low = x.amin(-1, keepdim=True).clamp(max=0.0)
    high = x.amax(-1, keepdim=True).clamp(min=0.0)
    inverse = torch.where(high == low, torch.ones_like(low), 255 / (high - low))
    below, above = low * inverse, high * inverse
    zero = torch.where((-128 + below) + (127 + above) > 0, -128 - below, 127 - above).clamp(-128, 127).round()
    return (torch.clamp(torch.round(x * inverse) + zero, -128, 127) - zero) * (1 / inverse)


def _largest(weight: Array) -> Array:
    return np.maximum(weight.max(-1), -weight.min(-1))


def _scales(largest: Array, scheme: Scheme) -> Array:
    scales = largest / np.float32(scheme.qmax)
    return np.where(scales == 0, np.float32(1), scales)


def _clipped_scales(weight: Array, scheme: Scheme, scratch: Array) -> Array:
    """For each row, the candidate scale with the least squared error; ``scratch`` is overwritten."""
    largest = _largest(weight)
    best = np.full(len(weight), np.inf, np.float32)
    chosen = best
    for ratio in MORE_CLIP_RATIOS if scheme.bits == 2 else CLIP_RATIOS:
        candidate = _scales(largest * np.float32(ratio), scheme)
        _round(weight, candidate, scheme, scratch)
        scratch *= candidate[:, None]
        scratch -= weight
        error = np.einsum("rk,rk->r", scratch, scratch)
        chosen = np.where(error < best, candidate, chosen)
        best = np.minimum(error, best)
    return chosen


def _round(weight: Array, scales: Array, scheme: Scheme, out: Array) -> None:
    np.divide(weight, scales[:, None], out=out)
    np.rint(out, out=out)
    np.clip(out, -scheme.qmax, scheme.qmax, out=out)
