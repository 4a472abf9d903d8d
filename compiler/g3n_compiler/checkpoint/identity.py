"""Which file a name refers to, and whether it was written to: a compile must read exactly what it hashed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from g3n_compiler.errors import SourceChanged
from g3n_runtime.terminal import printable_line


class FileIdentity(NamedTuple):
    """A file and its last change. The system sets ``changed_ns`` at every write, and nobody can set it back."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Inputs:
    """The files that some work reads: each is noted before it is first read and checked again when the work is done.

    A write through an existing memory mapping is seen only once the system notices it, at ``msync`` or write-back.
    """

    def __init__(self) -> None:
        self._noted: dict[Path, FileIdentity | None] = {}

    def note(self, paths: Iterable[Path]) -> None:
        """Note files that are about to be read, including files that do not exist."""
        for path in paths:
            self._noted.setdefault(path, _identity(path))

    def note_opened(self, path: Path, identity: FileIdentity) -> None:
        """Note a file that had ``identity`` when it was opened."""
        self._noted.setdefault(path, identity)

    def require_unchanged(self) -> None:
        """Raise :class:`SourceChanged` if a file was replaced, written to, created or removed."""
        for path, before in self._noted.items():
            now = _identity(path)
            if now != before:
                what = "appeared" if before is None else "was removed" if now is None else "changed"
                raise SourceChanged(
                    f"{printable_line(str(path))} {what} while it was being read, so what was used is not what was "
                    "hashed: start again when nothing writes there"
                )


def descriptor_sha256(fd: int) -> str:
    """Hex SHA-256 of the open file ``fd``, whose position does not change."""
    digest, offset = hashlib.sha256(), 0
    while block := os.pread(fd, 1 << 20, offset):
        digest.update(block)
        offset += len(block)
    return digest.hexdigest()


def _identity(path: Path) -> FileIdentity | None:
    try:
        return FileIdentity.of(path.stat())
    except (OSError, ValueError):
        return None
