"""Write a bundle beside its destination and rename it when it is whole: nothing half-written is ever taken for one.

The work folder is hidden, named after a key of all that decides the bundle's bytes, and survives a kill: the same
compile finds it again. One with another key is removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from g3n_compiler.errors import DiskError, G3nError
from g3n_runtime.bundle import MANIFEST

KEY_LENGTH = 16


class Staging(NamedTuple):
    """The work folder: ``directory`` becomes the bundle, ``steps`` keeps what a resumed compile does not redo."""

    directory: Path
    steps: Path


@contextmanager
def staged(destination: Path, key: str, mark: str = MANIFEST) -> Iterator[Staging]:
    """A work folder to write a bundle in; on success it replaces ``destination``.

    It is removed on success and on a :class:`G3nError`, which the same inputs would only meet again. Disk errors become
    :class:`DiskError`.

    Args:
        key: hash of everything that the bundle's bytes depend on.
        mark: file by which one of our own is known, that may be replaced.
    """
    if destination.exists() and not (destination / mark).is_file():
        raise DiskError(f"{destination} exists and is not g3n's (it has no {mark}): choose another --out or remove it")
    work = destination.with_name(f".{destination.name}.{key[:KEY_LENGTH]}.work")
    with translated_disk_errors(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        _remove_others(work, destination)
        with _locked(work, destination):
            try:
                staging = Staging(work / "bundle", work / "steps")
                shutil.rmtree(staging.directory, ignore_errors=True)
                staging.directory.mkdir()
                yield staging
                _sync(staging.directory)
                _swap(staging.directory, destination)
            except (G3nError, OSError):
                shutil.rmtree(work, ignore_errors=True)
                raise
            shutil.rmtree(work)


@contextmanager
def _locked(work: Path, destination: Path) -> Iterator[None]:
    """Hold ``work`` for this process; the lock ends with the process, however it ends."""
    work.mkdir(exist_ok=True)
    fd = os.open(work, os.O_RDONLY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DiskError(f"another compile is writing {destination}: wait for it or choose another --out") from None
        yield
    finally:
        os.close(fd)


def _remove_others(work: Path, destination: Path) -> None:
    """Remove what compiles of other inputs to the same destination left, but not what one is writing now."""
    for other in destination.parent.glob(f".{destination.name}.*.work"):
        if other != work:
            with _locked(other, destination):
                shutil.rmtree(other)


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
