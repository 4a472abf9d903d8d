"""One reading of the weights: hashes of the files, and of every tensor its largest value, its scale, NaN and Inf.

Hashing runs in a second thread over the same bytes, so that looking at them costs little time of its own.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from g3n_compiler.checkpoint.safetensors import DTYPES, SafetensorsFile, TensorEntry
from g3n_compiler.errors import NotFinite

BLOCK = 1 << 20
"""Bytes that are read at a time, few enough to stay in a core's cache while they are looked at."""
PATIENCE = 3.0
"""Seconds after which it is told again how far the reading is."""


@dataclass(frozen=True)
class Scale:
    """How large the values of a tensor are."""

    largest: float
    """The largest magnitude; infinity or NaN if there is such a value."""
    rms: float
    """Root of the mean square; of a tensor that is not finite, NaN."""

    @property
    def finite(self) -> bool:
        return math.isfinite(self.largest)


class Survey(NamedTuple):
    """What was found in a file."""

    sha256: str
    scales: dict[str, Scale]
    """Of each tensor of floats, by its name in the file."""


def survey(
    file: SafetensorsFile, needed: Collection[str] = (), progress: Callable[[str], None] | None = None
) -> Survey:
    """Read all of an open file once.

    Args:
        needed: tensors, by their names in the file, that must be finite; reading ends at the first that is not.
        progress: told every few seconds how far the reading is.

    Raises:
        NotFinite: a needed tensor holds a NaN or an infinity.
    """
    digest, size, told = hashlib.sha256(), file.identity.size, time.monotonic()
    buffers = [bytearray(BLOCK), bytearray(BLOCK)]
    scales: dict[str, Scale] = {}
    running: _Running | None = None
    with ThreadPoolExecutor(1) as pool:
        hashed: Future[None] = pool.submit(lambda: None)
        for number, piece in enumerate(_pieces(list(file.entries.values()), size)):
            view = memoryview(buffers[number % 2])[: piece.nbytes]
            file.fill(view, piece.offset)
            hashed.result()
            hashed = pool.submit(digest.update, view)
            if piece.entry is not None and piece.entry.is_float:
                if running is None or running.entry is not piece.entry:
                    running = _Running(piece.entry)
                running.add(view)
                if piece.last:
                    scales[piece.entry.name] = scale = running.scale()
                    if not scale.finite and piece.entry.name in needed:
                        raise NotFinite(
                            f"{file.path.name}: tensor {piece.entry.name!r} holds {running.count} values that are NaN "
                            "or infinite: repair the checkpoint, or save it again in bfloat16 or float32"
                        )
            if progress is not None and time.monotonic() - told > PATIENCE:
                told, done = time.monotonic(), piece.offset + piece.nbytes
                progress(f"hashing {file.path.name}: {done / size:.0%} of {size / 1e9:.1f} GB")
        hashed.result()
    return Survey(digest.hexdigest(), scales)


class _Piece(NamedTuple):
    """A part of a file that belongs to one tensor, or to none."""

    offset: int
    nbytes: int
    entry: TensorEntry | None
    last: bool
    """It ends the tensor."""


def _pieces(entries: Sequence[TensorEntry], size: int) -> Iterator[_Piece]:
    """The whole file in order; small tensors are pieces of their own, for each begins at its own alignment."""
    at = 0
    for entry in (*sorted(entries, key=lambda e: e.offset), None):
        start = size if entry is None else entry.offset
        for begin in range(at, start, BLOCK):  # the header
            yield _Piece(begin, min(BLOCK, start - begin), None, False)
        if entry is not None:
            at = entry.offset + entry.nbytes
            for begin in range(entry.offset, at, BLOCK):
                nbytes = min(BLOCK, at - begin)
                yield _Piece(begin, nbytes, entry, begin + nbytes == at)


_BITS: dict[torch.dtype, tuple[Any, int, int]] = {
    torch.bfloat16: (np.uint16, 0x7FFF, 0x7F80),
    torch.float16: (np.uint16, 0x7FFF, 0x7C00),
    torch.float32: (np.uint32, 0x7FFF_FFFF, 0x7F80_0000),
}
"""Of each dtype the integers of its size, all bits but the sign, and the least of them that is not finite. Without the
sign, the integers of floats are ordered as their magnitudes are."""


class _Running:
    """Largest value and sum of squares of a tensor, piece by piece."""

    def __init__(self, entry: TensorEntry) -> None:
        self.entry = entry
        self.count = 0
        """Values that are not finite."""
        self._largest = self._squares = 0.0

    def add(self, view: memoryview) -> None:
        dtype = DTYPES[self.entry.kind]
        values = torch.frombuffer(view, dtype=dtype)
        if dtype in _BITS:
            integers, mask, limit = _BITS[dtype]
            magnitudes = np.frombuffer(view, integers) & mask
            top = int(magnitudes.max())
            if top >= limit:
                self.count += int((magnitudes >= limit).sum())
                return
            largest = float(torch.from_numpy(np.array([top], integers).view(np.uint8)).view(dtype))
            wide = values.float()
        else:
            wide = values.float()  # as the compiler reads it: a double can be beyond float32
            bad = int((~torch.isfinite(wide)).sum())
            if bad:
                self.count += bad
                return
            largest = float(wide.abs().max())
        self._largest = max(self._largest, largest)
        unit = 1.0 if 1e-15 < largest < 1e15 else largest or 1.0  # a square would leave float32's range
        if unit != 1.0:
            wide = wide / unit
        self._squares += float(torch.dot(wide, wide)) * unit * unit

    def scale(self) -> Scale:
        if self.count:
            return Scale(math.inf, math.nan)
        values = math.prod(self.entry.shape)
        return Scale(self._largest, math.sqrt(self._squares / values) if values else 0.0)
