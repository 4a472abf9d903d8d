"""Which factors and rotations are moved, so that rounding loses least.

With ``x`` the size of a channel's values and ``w`` that of the columns that read it, the error of rounding the columns
to one grid a row goes with ``sum(x^2) * sum(w^2)``, and so does that of rounding the values to one grid a token. Both
are least if each channel's ``x`` and ``w`` are made equal, by a factor of ``sqrt(x / w)`` (Cauchy and Schwarz;
SmoothQuant, arXiv 2211.10438, finds the same exponent by trial). What a checkpoint had moved already between the two
makes no difference to the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from g3n_compiler.models.commuting import Channels, Producer, Turn
from g3n_compiler.rewrite.apply import Rewrite, Rewrites, Rows, powers_of_two

BLOCK_VALUES = 1 << 23
"""Values that are read at a time."""
SAMPLES, SAMPLE_ROWS = 64, 32
"""A table's channels are measured on so many samples of so many rows each, evenly spread."""
STRONGEST = 10
"""Largest power of two, up or down: a channel that is out by more is dead, or damaged."""


class ReadRows(Protocol):
    """Reads a tensor of the whole checkpoint as float32, or rows ``[begin, end)`` of it."""

    def __call__(self, tensor: str, rows: Rows | None = None) -> Tensor: ...


class Shapes(Protocol):
    """The shape of a tensor of the whole checkpoint."""

    def __call__(self, tensor: str) -> tuple[int, ...]: ...


def choose_rewrites(
    channels: Sequence[Channels],
    turns: Sequence[Turn],
    shape_of: Shapes,
    read: ReadRows,
    sizes: Mapping[str, Tensor] | None = None,
) -> Rewrites:
    """The rewrites for a checkpoint.

    Args:
        sizes: the root mean square ``[K]`` of each channel's values over examples, by the name of the channels; those
            that are not in it are estimated from the weights.
    """
    rows: dict[str, Tensor] = {}
    columns: dict[str, Tensor] = {}
    measure = _Measure(shape_of, read)
    for place in channels:
        x, seen = measure.values(place), (sizes or {}).get(place.name)
        if seen is not None:
            x = _filled(seen.double(), x)
        factors = _factors(x, measure.readers(place, x))
        for producer in place.producers:
            (columns if producer.tables else rows)[producer.tensor] = 1 / factors
        columns |= dict.fromkeys(place.consumers, factors)
        rows |= dict.fromkeys(place.followers, factors)
    found = {name: Rewrite(rows.get(name), columns.get(name)) for name in {*rows, *columns}}
    for turn in turns:
        rotation = _rotation(turn, read)
        found[turn.values] = Rewrite(turned_rows=rotation)
        for output in turn.outputs:
            heads = shape_of(output)[1] // turn.head_dim
            found[output] = Rewrite(turned_columns=rotation.repeat_interleave(heads // turn.kv_heads, 0))
    return Rewrites(found)


def _filled(seen: Tensor, estimate: Tensor) -> Tensor:
    """What examples said of each channel; one that none of them reached is as large as its weights say, beside the
    others, because its columns are rounded on the same grid as theirs.
    """
    reached = seen > 0
    both = reached & (estimate > 0)
    if not both.any():
        return estimate
    return torch.where(reached, seen, estimate * (seen[both] / estimate[both]).median())


def _factors(x: Tensor, w: Tensor) -> Tensor:
    """A power of two for each channel; 1 for one that nothing reaches or nobody reads."""
    alive = (x > 0) & (w > 0)
    steps = torch.log2(torch.where(alive, x, 1) / torch.where(alive, w, 1)).div(2).round()
    if alive.any():  # whole steps, so that the rest of them does not depend on what had been moved before
        steps -= steps[alive].mean().round()
    return powers_of_two(torch.where(alive, steps, 0).clamp(-STRONGEST, STRONGEST))


class _Measure:
    """Root mean squares of channels, by their weights."""

    def __init__(self, shape_of: Shapes, read: ReadRows) -> None:
        self._shape_of, self._read = shape_of, read

    def values(self, place: Channels) -> Tensor:
        """Size of each channel's values ``[K]`` float64, if what a norm gives is equally large everywhere."""
        return sum((self._produced(p).square() for p in place.producers), torch.zeros(1)).sqrt()

    def readers(self, place: Channels, x: Tensor) -> Tensor:
        """Size of the columns that read each channel ``[K]`` float64, relative to what each row makes of values ``x``:
        every row has a grid of its own, and may have been scaled itself.
        """
        parts = []
        for name in place.consumers:
            squares = torch.zeros(len(x), dtype=torch.float64)
            for block in self._blocks(name):
                powers = block.flatten(1).double().square()
                whole = powers @ x.square()
                squares += torch.where(whole > 0, 1 / whole, 0) @ powers
            parts.append(squares / self._shape_of(name)[0])
        return torch.stack(parts).mean(0).sqrt()

    def _produced(self, producer: Producer) -> Tensor:
        if producer.tables:
            return self._table(producer)
        if len(self._shape_of(producer.tensor)) == 1:
            return self._read(producer.tensor).double().abs()
        gain = 1.0 if producer.input_gain is None else self._read(producer.input_gain)
        blocks = (block.flatten(1) for block in self._blocks(producer.tensor))
        squares = [(block * gain).square().sum(1, dtype=torch.float64) for block in blocks]
        return torch.cat(squares).sqrt()

    def _table(self, producer: Producer) -> Tensor:
        """Of a table's rows, as they are looked up: times the root of their width."""
        count = self._shape_of(producer.tensor)[0]
        starts = range(0, count, max(1, count // SAMPLES))
        picked = torch.cat([self._read(producer.tensor, (at, min(at + SAMPLE_ROWS, count))) for at in starts])
        each = picked.view(len(picked) * producer.tables, -1).double()
        return (each.square().mean(0) * each.shape[1]).sqrt()

    def _blocks(self, name: str) -> Iterator[Tensor]:
        count, width = self._shape_of(name)[:2]  # a pointwise convolution's dimensions of length 1 follow
        step = max(1, BLOCK_VALUES // width)
        for begin in range(0, count, step):
            yield self._read(name, (begin, min(begin + step, count)))


def _rotation(turn: Turn, read: ReadRows) -> Tensor:
    """Rotations ``[kv_heads, D, D]`` float64 after which the columns of ``turn.outputs`` are about equally long.

    First into the basis in which the outputs' columns are orthogonal, which is the same however a checkpoint had turned
    them, then by the cosine transform, which gives each column a part of every one.
    """
    gram = torch.zeros(turn.kv_heads, turn.head_dim, turn.head_dim, dtype=torch.float64)
    for name in turn.outputs:
        parts = read(name).double()
        parts = parts.view(len(parts), turn.kv_heads, -1, turn.head_dim)
        gram += torch.einsum("nhgd,nhge->hde", parts, parts)
    basis = torch.linalg.eigh(gram).eigenvectors.mT
    turned = basis @ read(turn.values).double().view(turn.kv_heads, turn.head_dim, -1)
    # the sign of an eigenvector is the library's choice: let the largest value that it gives be positive
    sign = torch.gather(turned, 2, turned.abs().argmax(2, keepdim=True)).sign()
    return _cosines(turn.head_dim) @ (basis * torch.where(sign == 0, 1, sign))


def _cosines(size: int) -> Tensor:
    """The orthonormal cosine transform ``[size, size]`` (DCT-II) float64."""
    at = torch.arange(size, dtype=torch.float64)
    table = torch.cos(torch.pi / size * (at + 0.5) * at.view(-1, 1)) * (2 / size) ** 0.5
    table[0] /= 2**0.5
    return table
