"""Write a bundle beside its destination and rename it when it is whole: nothing half-written is ever taken for one."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from g3n_compiler.errors import DiskError
from g3n_runtime.bundle import MANIFEST


@contextmanager
def staged(destination: Path) -> Iterator[Path]:
    """A fresh folder to write a bundle into; on success it replaces ``destination``, on any error it is removed.

    A folder that a killed compile left is removed first. Disk errors become :class:`DiskError`.
    """
    if destination.exists() and not (destination / MANIFEST).is_file():
        raise DiskError(f"{destination} exists and is not a g3n bundle: choose another --out or remove it")
    partial = destination.with_name(f".{destination.name}.partial")
    try:
        with translated_disk_errors(destination):
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            yield partial
            _sync(partial)
            _swap(partial, destination)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def translated_disk_errors(where: Path) -> Iterator[None]:
    """Turn a full or read-only disk into a :class:`DiskError` with the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskError(f"no space left while writing {where}: free some or choose another --out") from None
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise DiskError(
                f"{error.filename or where} is not writable ({error.strerror}): choose another --out"
            ) from None
        raise


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def _swap(partial: Path, destination: Path) -> None:
    if not destination.exists():
        partial.rename(destination)
        return
    old = destination.with_name(f".{destination.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    destination.rename(old)
    partial.rename(destination)
    shutil.rmtree(old)
