"""Writes that a power cut cannot undo or truncate: bytes reach the disk before the name that refers to them."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def write_durably(path: Path, data: bytes) -> None:
    """Make ``path`` hold ``data``; after a crash it holds either that or its earlier content."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    rename_durably(partial, path)


def rename_durably(source: Path, target: Path) -> None:
    """Rename a file that is already on disk within its folder, replacing ``target`` if it exists."""
    source.replace(target)
    sync_folder(target.parent)


def sync_file(path: Path) -> None:
    """Wait until the bytes of ``path`` are on the disk."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """Wait until the names in ``path`` are on the disk."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def sync_tree(folder: Path) -> None:
    """Wait until ``folder`` and everything in it is on the disk; links are not followed."""
    for base, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(base, name)
            if path.is_file() and not path.is_symlink():
                sync_file(path)
        sync_folder(Path(base))


def _sync(path: Path, flags: int) -> None:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system without sync, such as some network file systems
            raise
    finally:
        os.close(fd)
