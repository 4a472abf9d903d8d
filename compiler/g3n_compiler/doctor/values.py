"""One reading of all weights: values that no model should have, and channels that are far larger than the others.

A recipe gives each row a scale of its own. A row that is large has its own scale, and costs nothing by itself; a column
that is large stretches the scales of all rows, so that the other columns are rounded more coarsely. Large rows and
values of a norm make activations large, which int8 then rounds more coarsely.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from g3n_compiler.checkpoint.meter import Meter
from g3n_compiler.checkpoint.reader import Checkpoint
from g3n_compiler.checkpoint.safetensors import SafetensorsFile, TensorEntry

OUTLIER = 8.0
"""A channel is an outlier if its rms is so many times the median of its tensor's."""
BLOCK = 1 << 20
"""Values that are looked at at once."""
LEAST_CHANNELS = 8
"""Fewer have no median to speak of."""


@dataclass(frozen=True)
class Channels:
    """The rows, or the columns, of one tensor."""

    outliers: int
    worst: int
    """The index of the largest."""
    ratio: float
    """Its rms over the median."""


@dataclass(frozen=True)
class TensorValues:
    """What one tensor holds."""

    name: str
    shape: tuple[int, ...]
    finite: bool
    largest: float
    rms: float
    constant: bool
    """All values are the same, and there is more than one."""
    rows: Channels | None
    """Of a vector, its values."""
    columns: Channels | None

    @property
    def oddity(self) -> float:
        """Orders tensors, the worst first."""
        if not self.finite:
            return math.inf
        channels = [c.ratio for c in (self.rows, self.columns) if c is not None]
        return max(channels, default=0.0) if not self.constant or self.largest else OUTLIER

    @property
    def odd(self) -> str | None:
        """What is odd about it, in words."""
        if not self.finite:
            return "a NaN or an infinity"
        if self.constant and len(self.shape) > 1:
            return "all zero" if self.largest == 0 else f"all {self.largest:g}"
        told = [
            f"{c.outliers} {what}, {what.removesuffix('s')} {c.worst} by {c.ratio:.0f} times"
            for what, c in (("columns", self.columns), ("rows" if len(self.shape) > 1 else "values", self.rows))
            if c is not None and c.outliers
        ]
        return f"outliers: {'; '.join(told)}" if told else None

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values, without numbers that JSON lacks."""
        return {**asdict(self), **{k: _number(getattr(self, k)) for k in ("largest", "rms")}, "odd": self.odd}


def measure(checkpoint: Checkpoint, say: Callable[[str], None]) -> list[TensorValues]:
    """The values of every tensor, the worst first; blocks of rows are read, so that no tensor is in memory whole."""
    total = sum(entry.nbytes for shard in checkpoint.shards for entry in shard.entries.values())
    meter = Meter("reading the weights", total, say)
    with torch.no_grad():
        found = [
            _measure(shard, entry, meter)
            for shard in checkpoint.shards
            for entry in sorted(shard.entries.values(), key=lambda e: e.offset)
        ]
    return sorted(found, key=lambda v: (-v.oddity, v.name))


def _measure(shard: SafetensorsFile, entry: TensorEntry, meter: Meter) -> TensorValues:
    count = math.prod(entry.shape)
    rows = entry.shape[0] if entry.shape else 1
    if count == 0:
        return TensorValues(entry.name, entry.shape, True, 0.0, 0.0, False, None, None)
    width = count // rows
    step = max(1, BLOCK // width)
    low, high = math.inf, -math.inf
    finite = True
    by_row, by_column = torch.zeros(rows, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    for begin in range(0, rows, step):
        end = min(begin + step, rows)
        whole = not entry.shape or (begin, end) == (0, rows)
        value = shard.read(entry.name, None if whole else (begin, end)).to(torch.float32).view(end - begin, width)
        least, most = (float(x) for x in torch.aminmax(value))
        finite = finite and math.isfinite(least) and math.isfinite(most)
        low, high = min(low, least), max(high, most)
        square = value.square_()
        by_row[begin:end] = square.sum(1)
        by_column += square.sum(0)
        meter.add(entry.nbytes * (end - begin) // rows)
    largest = max(abs(low), abs(high)) if finite else math.nan
    rms = math.sqrt(float(by_column.sum()) / count) if finite else math.nan
    channels = finite and len(entry.shape) > 0
    return TensorValues(
        entry.name,
        entry.shape,
        finite,
        largest,
        rms,
        finite and count > 1 and low == high,
        _channels(by_row, width) if channels else None,
        _channels(by_column, rows) if channels else None,
    )


def _channels(squares: Tensor, count: int) -> Channels | None:
    """The channels whose sums of ``count`` squares these are."""
    if len(squares) < LEAST_CHANNELS:
        return None
    rms = (squares / count).sqrt()
    median = float(rms.median())
    if median == 0:
        return None
    worst = int(rms.argmax())
    return Channels(int((rms > OUTLIER * median).sum()), worst, float(rms[worst]) / median)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
