"""The work folder beside a destination: an exact name, a marker that says whose it is, and a lock that names its owner.

It is never searched for: the work folder of ``a`` is ``.a.g3n-work``. It survives an interruption, and the same work
resumes in it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from g3n_compiler.bundle.exchange import place
from g3n_compiler.bundle.owned import REMEDY, Kind, account
from g3n_compiler.durable import sync_folder, write_durably
from g3n_compiler.errors import Busy, DiskError, NotOurs
from g3n_runtime.errors import BundleError
from g3n_runtime.reading import read_json_object
from g3n_runtime.terminal import printable_line

SUFFIX = ".g3n-work"
MARKER, OWNER = "g3n-work.json", "g3n-owner.json"
BUNDLE, STEPS = "bundle", "steps"
NEW, OLD = "new", "old"
"""Names of a folder that is complete and about to be moved to its destination, and of the one that it replaces."""
_MAKING = f"{MARKER}.partial"
_ENTRIES = {MARKER, _MAKING, OWNER, BUNDLE, STEPS, NEW, OLD}
_WHAT = "work folder of g3n: it may be removed when no g3n program runs, unless it holds a folder named old"
_MAX_RECORD_BYTES = 1 << 16


def work_folder(destination: Path) -> Path:
    """The only place for work on ``destination``."""
    return destination.with_name(f".{destination.name}{SUFFIX}")


@contextmanager
def held(destination: Path, key: str, kind: Kind) -> Iterator[Path]:
    """The work folder, locked for this process and containing only steps for ``key``; the lock ends with the process.

    Raises:
        Busy: another process holds it.
        NotOurs: its name is taken by something that is not our work folder for ``destination``.
    """
    work = work_folder(destination)
    with _locked(work, destination):
        _put_back(work, destination, kind)
        if _key_of(work, destination) != key:
            for name in (BUNDLE, STEPS):
                _clear(work / name)
            record = {"g3n": _WHAT, "destination": destination.name, "key": key}
            write_durably(work / MARKER, json.dumps(record).encode())
        _clear(work / BUNDLE)
        (work / BUNDLE).mkdir()
        yield work


def release(work: Path) -> None:
    """Remove a held work folder, unless an exchange left a folder in it, which the next start handles.

    The marker is removed last, so that an interruption leaves nothing that nobody owns.
    """
    if os.path.lexists(work / NEW) or os.path.lexists(work / OLD):
        return
    for name in (BUNDLE, STEPS):
        _clear(work / name)
    for name in (MARKER, _MAKING, OWNER):
        (work / name).unlink(missing_ok=True)
    try:
        work.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise


def restore(destination: Path, kind: Kind) -> None:
    """Restore the folder at ``destination`` if an interruption left it in the work folder."""
    work = work_folder(destination)
    if os.path.lexists(work):
        with _locked(work, destination):
            _put_back(work, destination, kind)


def _put_back(work: Path, destination: Path, kind: Kind) -> None:
    """Finish or undo an interrupted exchange."""
    old, new = work / OLD, work / NEW
    if os.path.lexists(old):
        if not os.path.lexists(destination):
            place(old, destination)
            sync_folder(destination.parent)
        else:
            account(old, kind).remove()
    if os.path.lexists(new):  # a complete result, or the replaced folder, in which a user's file may be
        account(new, kind).remove()


@contextmanager
def _locked(work: Path, destination: Path) -> Iterator[None]:
    fd = _lock(work, destination)
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(_myself()).encode(), 0)
        yield
    finally:
        os.close(fd)


def _lock(work: Path, destination: Path) -> int:
    """A descriptor of the work folder's owner record, locked; the folder is created if it is missing."""
    while True:
        work.mkdir(exist_ok=True)
        _require_ours(work, destination)
        try:
            fd = os.open(work / OWNER, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            continue  # its last owner has just removed it
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), (work / OWNER).lstat()):
                _require_ours(work, destination)
                return fd
        except BlockingIOError:
            said = _owner(fd)
            os.close(fd)
            raise Busy(
                f"another compile is writing {printable_line(str(destination))} ({said}): wait for it or choose "
                "another --out"
            ) from None
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(fd)
            raise DiskError(
                f"{printable_line(str(work))} cannot be locked ({error.strerror}): choose an --out on another disk"
            ) from None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _require_ours(work: Path, destination: Path) -> None:
    """Raise unless ``work`` is our folder for ``destination``, or an empty one that is about to become it."""
    shown = printable_line(str(work))
    if not stat.S_ISDIR(work.lstat().st_mode):
        raise NotOurs(f"{shown} is in the way of g3n's work folder and is not a folder: {REMEDY}")
    try:
        found = _names(work)
    except FileNotFoundError:
        return
    if foreign := sorted(found - _ENTRIES):
        raise NotOurs(f"{shown}, where g3n would work, holds {printable_line(foreign[0])!r}: {REMEDY}")
    if found - {_MAKING, OWNER}:
        _key_of(work, destination)


def _key_of(work: Path, destination: Path) -> str | None:
    """The key in the marker; ``None`` in a new folder."""
    if not os.path.lexists(work / MARKER):
        if _names(work) - {_MAKING, OWNER}:
            raise _unmarked(work)
        return None
    try:
        marker = read_json_object(work / MARKER, BundleError, _MAX_RECORD_BYTES)
    except BundleError:
        raise _unmarked(work) from None
    if marker.get("g3n") != _WHAT or marker.get("destination") != destination.name:
        raise _unmarked(work)
    return str(marker.get("key"))


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _unmarked(work: Path) -> NotOurs:
    return NotOurs(
        f"{printable_line(str(work))}, where g3n would work, has no {MARKER} that says it is g3n's for this "
        f"destination: {REMEDY}"
    )


def _clear(folder: Path) -> None:
    if folder.is_symlink():
        raise NotOurs(f"{printable_line(str(folder))} is a link, which g3n never makes there: {REMEDY}")
    if folder.exists():
        shutil.rmtree(folder)


def _myself() -> dict[str, object]:
    pid = os.getpid()
    return {
        "pid": pid,
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "started": _started(pid),
    }


def _owner(fd: int) -> str:
    """Who holds the lock, as far as its record can be trusted."""
    try:
        record = json.loads(os.pread(fd, _MAX_RECORD_BYTES, 0))
        pid, host, since, started = (record[name] for name in ("pid", "host", "since", "started"))
        if host != socket.gethostname():
            return printable_line(f"process {int(pid)} on {host}, since {since}")
        os.kill(int(pid), 0)
        if started == _started(int(pid)):
            return printable_line(f"process {int(pid)}, since {since}")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, OSError):
        pass
    return "a process that did not say which"


def _started(pid: int) -> str | None:
    """When a process began, in clock ticks since the system did; ``None`` if the system does not say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
