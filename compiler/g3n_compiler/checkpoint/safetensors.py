"""Read safetensors files lazily with ``pread``: nothing is mapped, so the page cache is not counted as our memory.

Every size a header claims is checked against the file before anything is allocated.
Format: https://huggingface.co/docs/safetensors (8-byte little-endian header length, JSON header, tensor bytes).
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from g3n_compiler.errors import BadHeader, MissingShard, TruncatedShard

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
MAX_HEADER_BYTES = 100_000_000
"""The limit of the reference implementation."""


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies: ``offset`` counts from the start of the file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class SafetensorsFile:
    """One open safetensors file and its validated header."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise MissingShard(f"{path} is missing: download the checkpoint again") from None
        try:
            self.entries = self._read_header()
        except BaseException:
            os.close(self._fd)
            raise

    def close(self) -> None:
        os.close(self._fd)

    def read(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """The tensor ``name``, or rows ``[begin, end)`` of its first dimension, in its own dtype."""
        entry = self.entries[name]
        shape, offset = entry.shape, entry.offset
        if rows is not None:
            begin, end = rows
            if not 0 <= begin <= end <= shape[0]:
                raise IndexError(f"rows {rows} of {name} {list(shape)}")
            stride = entry.nbytes // shape[0] if shape[0] else 0
            shape, offset = (end - begin, *shape[1:]), offset + begin * stride
        out = torch.empty(shape, dtype=entry.dtype)
        if out.numel():
            self._fill(out.view(-1).view(torch.uint8).numpy().data, offset)
        return out

    def _fill(self, view: memoryview, offset: int) -> None:
        done = 0
        while done < len(view):
            n = os.preadv(self._fd, [view[done:]], offset + done)
            if n == 0:
                raise TruncatedShard(f"{self.path} ended at byte {offset + done}: download the shard again")
            done += n

    def _read_header(self) -> dict[str, TensorEntry]:
        size = os.fstat(self._fd).st_size
        if size < 8:
            raise TruncatedShard(f"{self.path} has {size} bytes, too few for a safetensors header: download it again")
        length = int.from_bytes(os.pread(self._fd, 8, 0), "little")
        if length > MAX_HEADER_BYTES:
            raise BadHeader(f"{self.path} claims a header of {length} bytes, at most {MAX_HEADER_BYTES} are allowed")
        if 8 + length > size:
            raise TruncatedShard(
                f"{self.path} has {size} bytes but its header alone claims {length}: download it again"
            )
        try:
            header = json.loads(os.pread(self._fd, length, 8))
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise BadHeader(f"{self.path} has a header that is not JSON ({error})") from None
        if not isinstance(header, dict):
            raise BadHeader(f"{self.path} has a header that is not a JSON object")
        header.pop("__metadata__", None)
        entries = {name: self._entry(name, value, 8 + length) for name, value in header.items()}
        self._check_layout(entries, 8 + length, size)
        return entries

    def _entry(self, name: str, value: object, base: int) -> TensorEntry:
        try:
            assert isinstance(value, dict)
            dtype, shape, (begin, end) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
            assert all(type(n) is int and n >= 0 for n in (*shape, begin, end)) and begin <= end
        except (AssertionError, KeyError, TypeError, ValueError):
            raise BadHeader(f"{self.path}: malformed entry for tensor {name!r}") from None
        if dtype not in DTYPES:
            raise BadHeader(f"{self.path}: tensor {name!r} has dtype {dtype}, expected one of {', '.join(DTYPES)}")
        expected = math.prod(shape) * DTYPES[dtype].itemsize
        if end - begin != expected:
            raise BadHeader(
                f"{self.path}: tensor {name!r} {list(shape)} {dtype} needs {expected} bytes, not {end - begin}"
            )
        return TensorEntry(name, DTYPES[dtype], shape, base + begin, end - begin)

    def _check_layout(self, entries: dict[str, TensorEntry], base: int, size: int) -> None:
        at = base
        for entry in sorted(entries.values(), key=lambda e: (e.offset, e.nbytes)):
            if entry.offset != at:
                raise BadHeader(f"{self.path}: tensor {entry.name!r} overlaps its neighbour or leaves a hole")
            at += entry.nbytes
        if at > size:
            raise TruncatedShard(f"{self.path} has {size} bytes, its header promises {at}: download the shard again")
        if at < size:
            raise BadHeader(f"{self.path} has {size - at} bytes that no tensor claims")
