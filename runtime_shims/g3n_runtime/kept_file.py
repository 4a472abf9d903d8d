"""One file that an engine made, kept beside a record of what it is, and read only while the two agree."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import weakref
from collections.abc import Mapping
from pathlib import Path

from blake3 import blake3

from g3n_runtime.errors import G3nError
from g3n_runtime.open_file import Identity, identity
from g3n_runtime.reading import read_json_object

MOST_RECORD_BYTES = 4096
BLOCK = 8 << 20
THREADS = 2


class _Unusable(G3nError):
    """A kept file is not what its record says."""


class KeptFile:
    """A regular file of this user, open until nobody uses this object; never reached through a link."""

    def __init__(self, path: Path, name: str) -> None:
        self.name, self.digest = name, ""
        self.descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        self._close = weakref.finalize(self, os.close, self.descriptor)
        status = os.fstat(self.descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise OSError(errno.EINVAL, "not a regular file of this user", str(path))
        self.size, self._identity = status.st_size, identity(status)

    def hash(self) -> str:
        """BLAKE3: at 3.7 GB/s a core it adds a quarter of what SHA-256 would to each load."""
        hasher = blake3(max_threads=THREADS)
        buffer = memoryview(bytearray(min(BLOCK, self.size or 1)))
        position = 0
        while count := os.preadv(self.descriptor, [buffer], position):
            hasher.update(buffer[:count])
            position += count
        return str(hasher.hexdigest())

    def unchanged(self) -> bool:
        """Whether the content is what was hashed; another link to the file changes its times as well."""
        now: Identity = identity(os.fstat(self.descriptor))
        return now == self._identity or (now[2] == self.size and self.hash() == self.digest)


def open_kept(kept: Path, name: str, owner: Mapping[str, str]) -> KeptFile | None:
    """The file kept as ``name``, open, if it is what its record says; ``None`` if not.

    Args:
        owner: members of the record that say whose the file is.
    """
    try:
        if record_of(kept, name).is_symlink():
            return None
        record = read_json_object(record_of(kept, name), _Unusable, MOST_RECORD_BYTES)
        digest = record.get("blake3")
        if any(record.get(key) != value for key, value in owner.items()) or not _is_digest(digest):
            return None
        file = KeptFile(kept / f"{digest}.bin", name)
        if file.size != record.get("bytes") or file.hash() != digest:
            return None
        file.digest = str(digest)
        os.utime(record_of(kept, name))
        return file
    except (OSError, _Unusable):
        return None


def names_in(kept: Path) -> list[str]:
    """The names for which there are records."""
    return sorted(path.name.removesuffix(".json") for path in kept.iterdir() if path.name.endswith(".json"))


def record_of(kept: Path, name: str) -> Path:
    return kept / f"{name}.json"


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")


def remove(path: Path) -> None:
    """Remove whatever lies at ``path``; a link, not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def forget_others(kept: Path) -> None:
    """Remove what no record of the folder names."""
    named = {f"{_digest_in(record_of(kept, name))}.bin" for name in names_in(kept)}
    for path in kept.iterdir():
        if not path.name.endswith(".json") and path.name not in named:
            remove(path)


def _digest_in(record: Path) -> str:
    try:
        return str(read_json_object(record, _Unusable, MOST_RECORD_BYTES).get("blake3"))
    except _Unusable:
        return ""
