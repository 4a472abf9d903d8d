"""Rounding with feedback: later columns compensate for the rounding error of earlier ones.

Reference: GPTQ (Frantar et al. 2022, arXiv 2210.17323), with columns in the order of their contribution to the error,
blocked updates, and one scale per row that is chosen by the same error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from g3n_compiler.quantize.recipe import Scheme
from g3n_compiler.quantize.rows import CACHED_VALUES

WIDEST = 2048
"""Inputs that are processed together. Those of a wider matrix are divided into parts that are treated as independent,
because the time grows with the third power of this."""
FEW, BLOCK = 16, 128
"""Columns after whose rounding the rest of the block, and the rest of the matrix, is updated: a column at a time would
pass over the memory once for each."""
DAMPING = 0.01
"""Part of the mean diagonal that is added to it, so that directions in no example stay close to plain rounding."""
SCALE_BITS = 5
"""Significant bits of a scale: seven times a scale then still fits into bfloat16's eight bits, so nothing is lost on
disk."""

CLIP_RATIOS = tuple(1 - 0.025 * i for i in range(20))
"""Candidate scales, relative to the one for the row's largest magnitude."""
MORE_CLIP_RATIOS = tuple(1 - 0.025 * i for i in range(33))
"""Those for 2 bits, see :data:`g3n_compiler.quantize.rows.MORE_CLIP_RATIOS`."""

Curvature = Sequence[Tensor]
"""``x.T @ x`` of a linear layer's inputs, for each part of at most :data:`WIDEST` of them."""


def curvature_of(x: Tensor) -> list[Tensor]:
    """Curvature of the squared error of a linear layer's outputs over its inputs ``x [T, K]``."""
    return [part.T @ part for part in x.split(WIDEST, -1)]


def output_error(weight: Tensor, rounded: Tensor, curvature: Curvature) -> float:
    """Squared error of the outputs ``x @ weight.T``, summed over the examples, if ``rounded`` is used instead."""
    off = (rounded - weight).split(WIDEST, -1)
    return sum(float(((part @ h) * part).sum(dtype=torch.float64)) for part, h in zip(off, curvature, strict=True))


def round_with_feedback(weight: Tensor, curvature: Curvature, scheme: Scheme) -> Tensor:
    """``weight [N, K]`` rounded to integers of ``scheme`` times one scale per row, float32.

    In every row (except rows of zeros) some integer has the scheme's largest magnitude, so that deriving the scale from
    the largest value finds the same grid again.
    """
    scales = _scales(weight, torch.cat([h.diagonal() for h in curvature]), scheme)
    parts = zip(weight.split(WIDEST, -1), curvature, strict=True)
    rounded = torch.cat([_round_part(part, h, scales, scheme.qmax) for part, h in parts], -1)
    short = rounded.abs().amax(-1) < scales * scheme.qmax
    if short.any():
        widest = _few_bits(weight[short].abs().amax(-1) / scheme.qmax, torch.floor)
        rounded[short] = _on_grid(weight[short], widest[:, None], scheme.qmax)
    return rounded


def _scales(weight: Tensor, importance: Tensor, scheme: Scheme) -> Tensor:
    """The scale of least error for each row, with each column's error weighted by its ``importance [K]``."""
    rows = max(1, CACHED_VALUES // weight.shape[1])
    return torch.cat([_scales_of(block, importance, scheme) for block in weight.split(rows)])


def _scales_of(weight: Tensor, importance: Tensor, scheme: Scheme) -> Tensor:
    largest = weight.abs().amax(-1)
    best, chosen = torch.full_like(largest, torch.inf), torch.ones_like(largest)
    ratios = MORE_CLIP_RATIOS if scheme.bits == 2 else CLIP_RATIOS
    for ratio in ratios if scheme.clip_search else (1.0,):
        scales = _few_bits(largest * ratio / scheme.qmax)
        error = _on_grid(weight, scales[:, None], scheme.qmax).sub_(weight).square_() @ importance
        chosen = torch.where(error < best, scales, chosen)
        best = torch.minimum(error, best)
    return chosen


def _few_bits(scales: Tensor, to: Callable[[Tensor], Tensor] = torch.round) -> Tensor:
    """``scales`` rounded by ``to`` to :data:`SCALE_BITS` significant bits; 0 becomes 1."""
    mantissa, exponent = torch.frexp(scales)
    few = torch.ldexp(to(mantissa * 2**SCALE_BITS) / 2**SCALE_BITS, exponent)
    return torch.where(scales > 0, few, torch.ones_like(scales))


def _on_grid(weight: Tensor, scales: Tensor, qmax: int) -> Tensor:
    return (weight / scales).round_().clamp_(-qmax, qmax).mul_(scales)


def _round_part(weight: Tensor, curvature: Tensor, scales: Tensor, qmax: int) -> Tensor:
    """``weight [N, K]`` with all its columns rounded, the most important first; ``curvature [K, K]``."""
    order = curvature.diagonal().argsort(descending=True, stable=True)
    spread = _spread(curvature[order][:, order])
    # A row for each column, so that the values in use are contiguous.
    columns = weight.T[order].contiguous()
    for begin in range(0, len(columns), BLOCK):
        end = min(begin + BLOCK, len(columns))
        errors = torch.empty_like(columns[begin:end])
        for first in range(begin, end, FEW):
            last = min(first + FEW, end)
            for i in range(first, last):
                rounded = _on_grid(columns[i], scales, qmax)
                errors[i - begin] = (columns[i] - rounded) / spread[i, i]
                columns[i] = rounded
                columns[i + 1 : last].addr_(spread[i, i + 1 : last], errors[i - begin], alpha=-1)
            columns[last:end].addmm_(spread[first:last, last:end].T, errors[first - begin : last - begin], alpha=-1)
        columns[end:].addmm_(spread[begin:end, end:].T, errors, alpha=-1)
    out = torch.empty_like(columns)
    out[order] = columns
    return out.T.contiguous()


def _spread(curvature: Tensor) -> Tensor:
    """Upper Cholesky factor of the inverse: row ``i`` distributes column ``i``'s error over the columns after it.

    With the order reversed, the factor of the curvature itself is upper triangular, and its inverse is the one wanted.
    """
    damped = curvature.double()
    diagonal = damped.diagonal()
    diagonal += DAMPING * diagonal.mean().clamp(min=torch.finfo(torch.float32).tiny)
    upper = torch.linalg.cholesky(damped.flip(0, 1)).flip(0, 1)
    return torch.linalg.solve_triangular(upper, torch.eye(len(upper), dtype=upper.dtype), upper=True).float()
