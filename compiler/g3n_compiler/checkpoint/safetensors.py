"""Read safetensors files lazily with ``pread``: nothing is mapped, so the page cache does not count as our memory.

Every size that a header claims is checked against the file before anything is allocated.

Format: https://huggingface.co/docs/safetensors (8-byte little-endian header length, JSON header, tensor bytes).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from g3n_compiler.checkpoint.identity import FileIdentity, descriptor_sha256
from g3n_compiler.checkpoint.lfs import is_lfs_pointer
from g3n_compiler.errors import BadHeader, MissingShard, TruncatedShard
from g3n_runtime.reading import open_regular, parse_json

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
"""Those that are read; ``transformers`` converts all of them to the model's own."""
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
"""Size of a value of each dtype that the format has; a tensor's own size must be whole bytes."""
MAX_HEADER_BYTES = 32 << 20
"""A hundred times the largest published header; parsing JSON takes several times as much memory."""
MAX_TENSORS = 1 << 17
MAX_DIMENSIONS = 8
MAX_NAME = 512


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor is: ``offset`` counts from the start of the file."""

    name: str
    kind: str
    """The dtype's name in the format, one of :data:`BITS`."""
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def is_float(self) -> bool:
        """Whether it can be read."""
        return self.kind in DTYPES

    @property
    def dtype(self) -> torch.dtype:
        """Its dtype.

        Raises:
            BadHeader: it holds integers, or floats that only quantised checkpoints have.
        """
        if not self.is_float:
            raise BadHeader(
                f"tensor {self.name!r} has dtype {self.kind}, expected {', '.join(DTYPES)}: pass the checkpoint from "
                "before it was quantised or packed"
            )
        return DTYPES[self.kind]


class SafetensorsFile:
    """One open safetensors file and its validated header."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_regular(path, BadHeader, MissingShard)
        self._fd = self._file.fileno()
        self.identity = FileIdentity.of(os.fstat(self._fd))
        """Of the file when it was opened."""
        try:
            self.entries = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()

    def sha256(self) -> str:
        """Hex SHA-256 of the open file, whatever its name refers to by now."""
        return descriptor_sha256(self._fd)

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
            self.fill(out.view(-1).view(torch.uint8).numpy().data, offset)
        return out

    def fill(self, view: memoryview, offset: int) -> None:
        """Read as many bytes as ``view`` has."""
        done = 0
        while done < len(view):
            try:
                n = os.preadv(self._fd, [view[done:]], offset + done)
            except OSError as error:
                raise TruncatedShard(f"{self.path} cannot be read ({error.strerror})") from None
            if n == 0:
                raise TruncatedShard(f"{self.path} ended at byte {offset + done}: download the shard again")
            done += n

    def _start(self, most: int) -> bytes:
        return os.pread(self._fd, most, 0)

    def _read_header(self) -> dict[str, TensorEntry]:
        size = os.fstat(self._fd).st_size
        if size < 8:
            raise TruncatedShard(f"{self.path} has {size} bytes, too few for a safetensors header: download it again")
        start = bytearray(8)
        self.fill(memoryview(start), 0)
        if is_lfs_pointer(self._start(64)):
            raise BadHeader(pointer_message(self.path))
        length = int.from_bytes(start, "little")
        if length > MAX_HEADER_BYTES:
            raise BadHeader(
                f"{self.path} claims a header of {length} bytes, but at most {MAX_HEADER_BYTES} are allowed"
            )
        if 8 + length > size:
            raise TruncatedShard(
                f"{self.path} has {size} bytes but its header alone claims {length}: download it again"
            )
        raw = bytearray(length)
        self.fill(memoryview(raw), 8)
        header = parse_json(bytes(raw), f"the header of {self.path}", BadHeader, unique=True)
        if not isinstance(header, dict):
            raise BadHeader(f"{self.path} has a header that is not a JSON object")
        if not isinstance(header.pop("__metadata__", {}), dict):
            raise BadHeader(f"{self.path} has a __metadata__ that is not an object")
        if len(header) > MAX_TENSORS:
            raise BadHeader(f"{self.path} names {len(header)} tensors, but at most {MAX_TENSORS} are read")
        entries = {name: self._entry(name, value, 8 + length) for name, value in header.items()}
        self._check_layout(entries, 8 + length, size)
        return entries

    def _entry(self, name: str, value: object, base: int) -> TensorEntry:
        if not name.isprintable() or not 0 < len(name) <= MAX_NAME:
            raise BadHeader(f"{self.path} has a tensor named {name[:80]!r}, expected a printable name")
        entry = value if isinstance(value, dict) else {}
        dtype = entry.get("dtype")
        shape, offsets = _sizes(entry.get("shape"), MAX_DIMENSIONS), _sizes(entry.get("data_offsets"), 2)
        if shape is None or offsets is None or len(offsets) != 2:
            raise BadHeader(f"{self.path}: malformed entry for tensor {name!r}")
        begin, end = offsets
        if not isinstance(dtype, str) or dtype not in BITS:
            raise BadHeader(
                f"{self.path}: tensor {name!r} has dtype {str(dtype)[:20]!r}, expected one of {', '.join(BITS)}"
            )
        bits = math.prod(shape) * BITS[dtype]
        if (end - begin) * 8 != bits:
            raise BadHeader(
                f"{self.path}: tensor {name!r} {list(shape)} {dtype} needs {bits / 8:g} bytes, not {end - begin}"
            )
        return TensorEntry(name, dtype, shape, base + begin, end - begin)

    def _check_layout(self, entries: dict[str, TensorEntry], base: int, size: int) -> None:
        at = base
        for entry in sorted(entries.values(), key=lambda e: (e.offset, e.nbytes)):
            if entry.offset != at:
                raise BadHeader(f"{self.path}: tensor {entry.name!r} overlaps its neighbour or leaves a hole")
            at += entry.nbytes
        if at > size:
            raise TruncatedShard(
                f"{self.path} has {size} bytes, but its header promises {at}: download the shard again"
            )
        if at < size:
            raise BadHeader(f"{self.path} has {size - at} bytes that no tensor claims")


def pointer_message(path: Path) -> str:
    """What to say of a git-lfs pointer at ``path``."""
    return f"{path} is a git-lfs pointer, not the file itself: run git lfs pull in {path.parent}"


def _sizes(value: object, most: int) -> tuple[int, ...] | None:
    """A list of at most ``most`` sizes, each below 2**63 as in a file system; otherwise ``None``."""
    if (
        not isinstance(value, list)
        or len(value) > most
        or any(type(n) is not int or not 0 <= n < 1 << 63 for n in value)
    ):
        return None
    return tuple(value)
