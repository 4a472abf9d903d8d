"""A file that is opened once: what was hashed is what is read and mapped afterwards, whatever lies at its path then.

On Linux an engine that wants a path gets ``/proc/self/fd/N``, which leads to the open file itself. Elsewhere it gets
the file's own path, and :meth:`OpenFile.require_unchanged` checks afterwards that it still leads to the same file.

What no check sees: bytes that a writer of the file changes in place after the last look at it, while it is mapped.
Every change through the system shows in the file's times, so such a change is found at the next look.
"""

from __future__ import annotations

import hashlib
import os
import stat
import weakref
from pathlib import Path
from typing import BinaryIO

from g3n_runtime.errors import BundleError, G3nError, HashMismatch
from g3n_runtime.reading import open_regular

Identity = tuple[int, int, int, int, int]
"""Device, inode, size, and the times of the last change of its content and of its inode in nanoseconds."""
OPEN_FILES = Path("/proc/self/fd")


class OpenFile:
    """A regular file, open for reading until nobody uses this object.

    Args:
        path: where it lies, for messages and for systems that lead nowhere else.
        error: raised when ``path`` is missing, cannot be read, or is no regular file.
    """

    def __init__(self, path: Path, error: type[G3nError] = BundleError) -> None:
        self.path = path
        self._file: BinaryIO = open_regular(path, error)
        self._close = weakref.finalize(self, self._file.close)
        self.descriptor = self._file.fileno()
        self._identity = identity(os.fstat(self.descriptor))
        self.verified: str | None = None
        """The SHA-256 that the content was found to have; ``None`` if nobody looked."""

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def size(self) -> int:
        """Bytes, when it was opened."""
        return self._identity[2]

    @property
    def identity(self) -> Identity:
        return self._identity

    @property
    def address(self) -> Path:
        """A path by which a library in this process opens this very file, where the system has such; else its own."""
        return OPEN_FILES / str(self.descriptor) if OPEN_FILES.is_dir() else self.path

    def read(self, begin: int = 0, end: int | None = None) -> bytes:
        """Bytes ``[begin, end)``, to the end of the file by default."""
        end = self.size if end is None else end
        pieces: list[bytes] = []
        while begin < end and (piece := os.pread(self.descriptor, min(end - begin, 1 << 24), begin)):
            pieces.append(piece)
            begin += len(piece)
        return b"".join(pieces)

    def sha256(self) -> str:
        """The digest of the content as it is now."""
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        try:
            return hashlib.file_digest(self._file, "sha256").hexdigest()  # type: ignore[arg-type]
        except OSError as reason:
            raise BundleError(f"{self.path} cannot be read ({reason.strerror}): copy the bundle again") from None

    def verify(self, sha256: str) -> None:
        """Hash the content.

        Raises:
            HashMismatch: it is not ``sha256``, or was changed meanwhile.
        """
        if self.sha256() != sha256:
            raise HashMismatch(f"{self.name} differs from the hash in the manifest: copy or compile the bundle again")
        self.verified = sha256
        if identity(os.fstat(self.descriptor)) != self._identity:
            raise HashMismatch(f"{self.name} was changed while it was hashed: wait for what writes it, and try again")

    def trust(self, sha256: str) -> None:
        """Take the content for what has ``sha256``: this very file was verified before, in its present state."""
        self.verified = sha256

    def require_unchanged(self, by_path: bool = False) -> None:
        """See that the file is what it was when it was opened.

        Args:
            by_path: a library opened it by its own path, so that must lead to it still.

        Raises:
            HashMismatch: its content was changed, or another file took its place where it must be opened by its path.
        """
        now = identity(os.fstat(self.descriptor))
        if now != self._identity:
            # A link that was added or removed changes a time too, as when a new bundle takes the place of this one.
            same_content = now[:4] == self._identity[:4]
            if not same_content or (self.verified is not None and self.sha256() != self.verified):
                raise HashMismatch(f"{self.path} was changed while it was in use: copy or compile the bundle again")
            self._identity = now
        if (by_path or self.address == self.path) and self._elsewhere():
            raise HashMismatch(f"{self.path} was replaced while it was in use: start again")

    def _elsewhere(self) -> bool:
        try:
            found = self.path.stat()
        except OSError:
            return True
        return not stat.S_ISREG(found.st_mode) or identity(found)[:2] != self._identity[:2]


def address(file: Path | OpenFile) -> Path:
    """The path by which a library in this process opens ``file``."""
    return file.address if isinstance(file, OpenFile) else file


def identity(status: os.stat_result) -> Identity:
    """What changes when a file is written or replaced."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
