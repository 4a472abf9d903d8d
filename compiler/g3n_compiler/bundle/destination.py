"""Where a result goes: decided once, before any work, and refused if anything could be lost or misread there."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from g3n_compiler.bundle.owned import Account, Kind, account
from g3n_compiler.bundle.work import SUFFIX, restore, work_folder
from g3n_compiler.errors import DiskError, NotOurs
from g3n_runtime.terminal import printable_line

MAX_NAME_BYTES = 255


@dataclass(frozen=True)
class Destination:
    """A place where a folder can be put.

    ``path`` contains no link: links in ``--out`` are resolved at the start.
    """

    path: Path
    kind: Kind
    existing: Account | None
    """What is there already and may be replaced."""

    @property
    def name(self) -> str:
        return self.path.name


def claim(
    out: Path, kind: Kind, inputs: Iterable[Path] = (), progress: Callable[[str], None] = lambda line: None
) -> Destination:
    """Decide whether ``out`` can be written, and restore a folder whose replacement was interrupted.

    Args:
        kind: the kind of folder that will be written; only one of the same kind is replaced.
        inputs: files and folders that are read meanwhile, which must not be touched.

    Raises:
        DiskError: it is not a name for a folder, or is in or around one of ``inputs``.
        NotOurs: g3n did not write everything that is there, or that is in the place of the work folder.
    """
    _check_name(out.name, out)
    try:
        path = Path(os.path.realpath(out))
        _check_name(path.name, out)
        _check_place(path, out)
        _check_outside_work(path, out)
        for source in inputs:
            _check_apart(path, source, out)
        restore(path, kind)
    except OSError as error:
        raise DiskError(f"--out {_shown(out)} cannot be used ({error.strerror}): choose another") from None
    if not os.path.lexists(path):
        return Destination(path, kind, None)
    progress(f"checking that the {kind.noun} at {_shown(out)} may be replaced")
    return Destination(path, kind, account(path, kind))


def _check_name(name: str, out: Path) -> None:
    if name in ("", ".", ".."):
        raise DiskError(f"--out {_shown(out)!r} does not name a folder: choose one, such as exported/mine")
    if printable_line(name) != name or name.startswith("-"):
        raise DiskError(
            f"--out {_shown(out)!r} has a control character in its name, or a dash at its start, which other programs "
            "take for an option: choose another"
        )
    if name.endswith(SUFFIX):
        raise DiskError(f"--out {_shown(out)} is named like a work folder of g3n: choose another")
    if len(os.fsencode(work_folder(Path(name)).name)) > MAX_NAME_BYTES:
        raise DiskError(f"--out {_shown(out)} has too long a name: choose a shorter one")


def _check_place(path: Path, out: Path) -> None:
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        above = next(p for p in path.parents if os.path.lexists(p))
        if not above.is_dir():
            raise DiskError(
                f"{_shown(above)} is not a folder, so --out cannot be created in it: choose another"
            ) from None
        return
    if stat.S_ISLNK(status.st_mode):
        raise DiskError(f"--out {_shown(out)} is a link that leads to itself: choose another")
    if not stat.S_ISDIR(status.st_mode):
        raise NotOurs(f"{_shown(out)} exists and is not a folder, so it is not g3n's: choose another --out")
    if os.path.ismount(path):
        raise NotOurs(f"{_shown(out)} is a mount point, which cannot be replaced: choose a folder in it")


def _check_outside_work(path: Path, out: Path) -> None:
    """Refuse a place in a work folder, which the next compile to that folder's own destination would clear."""
    if (work := next((p for p in path.parents if p.name.endswith(SUFFIX)), None)) is not None:
        raise DiskError(f"--out {_shown(out)} is in {_shown(work)}, where g3n works: choose another")


def _check_apart(path: Path, source: Path, out: Path) -> None:
    """Refuse a place that is ``source``, contains it, or is inside it if it is a folder; links are resolved.

    What is read may not lie in the work folder either, since work there begins with an empty one.
    """
    try:
        status = source.stat()
    except (OSError, ValueError):
        return  # reading it will say what is wrong
    real = Path(os.path.realpath(source))
    if (work := work_folder(path)) in (real, *real.parents):
        raise DiskError(f"{_shown(source)}, which is read, is in the work folder {_shown(work)}: move it out of there")
    around = [p for p in (path, *path.parents) if os.path.lexists(p)]
    inside = stat.S_ISDIR(status.st_mode) and any(os.path.samestat(p.stat(), status) for p in around)
    there = os.path.lexists(path)
    if inside or (there and any(os.path.samestat(p.stat(), path.stat()) for p in (real, *real.parents))):
        raise DiskError(f"--out {_shown(out)} is in or around {_shown(source)}, which is read: choose another")


def _shown(path: Path) -> str:
    return printable_line(str(path))
