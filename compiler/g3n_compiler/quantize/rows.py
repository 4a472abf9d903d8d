"""Integer arithmetic of weight quantization, row by row, so that a table of any size streams through.

The same integers and scales go into every backend and into the fake-quant reference.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from g3n_compiler.quantize.recipe import Scheme

CLIP_RATIOS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65)
"""Candidate scales of the clip search, as parts of the row's largest magnitude."""


class QuantizedRows(NamedTuple):
    """``values [R, K]`` int8 and ``scales [R]`` float32: ``weight ~ values * scales[:, None]``."""

    values: Tensor
    scales: Tensor

    def dequantize(self) -> Tensor:
        return self.values.float() * self.scales[:, None]


def quantize_rows(weight: Tensor, scheme: Scheme) -> QuantizedRows:
    """Quantise ``weight [R, K]`` float32 symmetrically with one scale a row; an all-zero row gets scale 1."""
    largest = weight.abs().amax(-1)
    scales = _scales(largest, scheme)
    if scheme.clip_search:
        best = torch.full_like(largest, torch.inf)
        chosen = scales
        for ratio in CLIP_RATIOS:
            candidate = _scales(largest * ratio, scheme)
            rounded = _round(weight, candidate, scheme).mul_(candidate[:, None])
            error = rounded.sub_(weight).square_().sum(-1)
            better = error < best
            best = torch.where(better, error, best)
            chosen = torch.where(better, candidate, chosen)
        scales = chosen
    return QuantizedRows(_round(weight, scales, scheme).to(torch.int8), scales)


def fake_quantize(weight: Tensor, scheme: Scheme) -> Tensor:
    """``weight [R, K]`` as the backend will see it after dequantization; float32 schemes leave it alone."""
    return weight if scheme.bits == 32 else quantize_rows(weight, scheme).dequantize()


def pack_rows(rows: QuantizedRows, scheme: Scheme) -> Tensor:
    """Bytes ``[R, K * bits / 8]`` uint8 as TFLite has them: two int4 a byte, the first in the low nibble."""
    if scheme.bits == 8:
        return rows.values.view(torch.uint8)
    low, high = rows.values[:, 0::2] & 0xF, rows.values[:, 1::2] & 0xF
    return (low | (high << 4)).contiguous().view(torch.uint8)


def fake_quantize_activations(x: Tensor) -> Tensor:
    """Round ``x [..., K]`` to the int8 grid that XNNPACK's ``qd8`` linears choose for each row (min-max)."""
    low = x.amin(-1, keepdim=True).clamp(max=0.0)
    high = x.amax(-1, keepdim=True).clamp(min=0.0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.round(-128 - low / scale)
    return (torch.clamp(torch.round(x / scale) + zero, -128, 127) - zero) * scale


def _scales(largest: Tensor, scheme: Scheme) -> Tensor:
    scales = largest / scheme.qmax
    return torch.where(scales == 0, torch.ones_like(scales), scales)


def _round(weight: Tensor, scales: Tensor, scheme: Scheme) -> Tensor:
    return (weight / scales[:, None]).round_().clamp_(-scheme.qmax, scheme.qmax)
