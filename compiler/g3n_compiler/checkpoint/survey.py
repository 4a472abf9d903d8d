"""One reading of the weights: the hashes of the files, and the tensors that hold a NaN or an infinity.

Hashing runs in a second thread over the same bytes, so that looking at them costs little time of its own.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch

from g3n_compiler.checkpoint.safetensors import DTYPES, SafetensorsFile, TensorEntry
from g3n_compiler.errors import NotFinite

BLOCK = 1 << 20
"""Bytes that are read at a time, few enough to stay in a core's cache while they are looked at."""
PATIENCE = 3.0
"""Seconds between two reports of how far the reading is."""


class Survey(NamedTuple):
    """What was found in a file."""

    sha256: str
    not_finite: frozenset[str]
    """The tensors that hold a NaN or an infinity, by their names in the file."""


def survey(
    file: SafetensorsFile, needed: Collection[str] = (), progress: Callable[[str], None] | None = None
) -> Survey:
    """Read all of an open file once.

    Args:
        needed: tensors, by their names in the file, that must be finite; reading ends at the first that is not.
        progress: called every few seconds with how far the reading is.

    Raises:
        NotFinite: a needed tensor holds a NaN or an infinity.
    """
    digest, size, told = hashlib.sha256(), file.identity.size, time.monotonic()
    buffers = [bytearray(BLOCK), bytearray(BLOCK)]
    bad: Counter[str] = Counter()
    with ThreadPoolExecutor(1) as pool:
        hashed: Future[None] = pool.submit(lambda: None)
        for number, piece in enumerate(_pieces(list(file.entries.values()), size)):
            view = memoryview(buffers[number % 2])[: piece.nbytes]
            file.fill(view, piece.offset)
            hashed.result()
            hashed = pool.submit(digest.update, view)
            if piece.entry is not None and piece.entry.is_float:
                name = piece.entry.name
                bad[name] += _count_not_finite(view, DTYPES[piece.entry.kind])
                if piece.last and bad[name] and name in needed:
                    raise NotFinite(
                        f"{file.path.name}: tensor {name!r} holds {bad[name]} values that are NaN or infinite: repair "
                        "the checkpoint, or save it again in bfloat16 or float32"
                    )
            if progress is not None and time.monotonic() - told > PATIENCE:
                told, done = time.monotonic(), piece.offset + piece.nbytes
                progress(f"hashing {file.path.name}: {done / size:.0%} of {size / 1e9:.1f} GB")
        hashed.result()
    return Survey(digest.hexdigest(), frozenset(name for name, count in bad.items() if count))


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


def _count_not_finite(view: memoryview, dtype: torch.dtype) -> int:
    """How many of the values are NaN or infinite as float32, which is what the compiler reads."""
    if dtype not in _BITS:
        return int((~torch.isfinite(torch.frombuffer(view, dtype=dtype).float())).sum())
    integers, mask, limit = _BITS[dtype]
    magnitudes = np.frombuffer(view, integers) & mask
    # Where the largest is finite, as nearly always, nothing has to be counted.
    return int((magnitudes >= limit).sum()) if int(magnitudes.max()) >= limit else 0
