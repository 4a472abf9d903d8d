"""Write a folder beside its destination and put it there once it is complete, so that nothing half-written looks
finished.

The work folder (see :mod:`.work`) survives an interruption, and the same work finds it again. The old folder at the
destination is exchanged for the new one in one step where the system can do that; otherwise it can still be found and
is restored at the next start.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from g3n_compiler.bundle.destination import Destination
from g3n_compiler.bundle.exchange import place, swap
from g3n_compiler.bundle.owned import REMEDY
from g3n_compiler.bundle.work import BUNDLE, NEW, OLD, STEPS, held, release
from g3n_compiler.durable import sync_folder, sync_tree
from g3n_compiler.errors import DiskError, G3nError, NotOurs
from g3n_runtime.terminal import printable_line

POINTS = ("written", "moved", "checked", "exchanged", "checked again", "old removed", "released")
"""Moments on the way to the destination, in order. ``checked`` to ``old removed`` only occur if something is replaced;
``old away`` follows ``checked`` if the system cannot exchange."""
OLD_AWAY = "old away"


class Staging(NamedTuple):
    """The work folder: ``directory`` becomes the bundle, and ``steps`` keeps what a resumed compile does not repeat."""

    directory: Path
    steps: Path


class System(NamedTuple):
    """What the exchange needs from the system."""

    swap: Callable[[Path, Path], bool] = swap
    """Exchanges two folders, or returns that it cannot."""
    reached: Callable[[str], None] = lambda point: None
    """Called at each of :data:`POINTS`."""


@contextmanager
def staged(destination: Destination, key: str, system: System | None = None) -> Iterator[Staging]:
    """A work folder to write in; on success its content replaces what ``destination`` was claimed with.

    It is removed on success and on a :class:`G3nError`, which the same inputs would only cause again. It is kept if
    only somebody else's file at the destination is in the way. Disk errors become :class:`DiskError`.

    Args:
        key: hash of everything that decides the bytes written.

    Raises:
        Busy: another compile is writing there.
        NotOurs: something was added there since it was claimed.
    """
    system = system or System()
    path = destination.path
    with translated_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        home = path.parent.stat()
        with held(path, key, destination.kind) as work:
            _require_as_claimed(destination)
            try:
                yield Staging(work / BUNDLE, work / STEPS)
                sync_tree(work / BUNDLE)
                system.reached("written")
                if not os.path.samestat(path.parent.stat(), home):
                    raise NotOurs(f"{_shown(path.parent)} is not the same folder as at the start: {REMEDY}")
                (work / BUNDLE).rename(work / NEW)
                sync_folder(work)
                system.reached("moved")
                _put_in_place(work, destination, system)
            except NotOurs:
                raise
            except (G3nError, OSError):
                release(work)
                raise
            release(work)
            sync_folder(path.parent)
            system.reached("released")


def _require_as_claimed(destination: Destination) -> None:
    """Raise :class:`NotOurs` if what is there now is not what was claimed; it is fine if nothing is there."""
    if destination.existing is not None:
        if os.path.lexists(destination.path):
            destination.existing.require_unchanged()
    elif os.path.lexists(destination.path):
        raise _appeared(destination.path)


def _appeared(path: Path) -> NotOurs:
    return NotOurs(f"{_shown(path)} appeared after the start, so g3n did not check what is in it: start again")


def _put_in_place(work: Path, destination: Destination, system: System) -> None:
    new, old, path, existing = work / NEW, work / OLD, destination.path, destination.existing
    if existing is None or not os.path.lexists(path):
        _place(new, path)
        return
    existing.require_unchanged()
    system.reached("checked")
    if system.swap(new, path):
        _sync_both(work, path)
        system.reached("exchanged")
        try:
            existing.at(new).require_unchanged()
        except NotOurs:  # somebody changed it just before the exchange
            system.swap(new, path)
            _sync_both(work, path)
            raise
        system.reached("checked again")
        existing.at(new).remove()
    else:
        path.rename(old)
        _sync_both(work, path)
        system.reached(OLD_AWAY)
        try:
            existing.at(old).require_unchanged()
            _place(new, path)
        except BaseException:
            if not os.path.lexists(path):
                place(old, path)
            raise
        system.reached("exchanged")
        system.reached("checked again")
        existing.at(old).remove()
    system.reached("old removed")


def _place(new: Path, path: Path) -> None:
    try:
        place(new, path)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise _appeared(path) from None
        raise
    _sync_both(new.parent, path)


def _sync_both(work: Path, path: Path) -> None:
    sync_folder(path.parent)
    sync_folder(work)


@contextmanager
def translated_disk_errors(where: Path) -> Iterator[None]:
    """Turn errors of a disk or a path into a :class:`DiskError` with the remedy."""
    try:
        yield
    except BrokenPipeError:
        raise  # the reader of our output is gone
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskError(
                f"no space left, or no room for more files, while writing {_shown(where)}: free some or choose another "
                "--out"
            ) from None
        if error.errno is None:
            raise
        name = _shown(error.filename if isinstance(error.filename, str | Path) else where)
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise DiskError(f"{name} is not writable ({error.strerror}): choose another --out") from None
        raise DiskError(f"{name} cannot be read or written ({error.strerror})") from None


def _shown(path: Path | str) -> str:
    return printable_line(str(path))
