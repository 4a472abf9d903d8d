"""The one folder outside a bundle where g3n keeps what it can make again: ``G3N_CACHE_DIR``, else ``~/.cache/g3n``."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "G3N_CACHE_DIR"
NAME = "g3n"
PRIVATE = 0o700
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def cache_folder(*names: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The folder, made if it is missing, or the one that ``names`` lead to below it.

    It is ``G3N_CACHE_DIR``, else ``g3n`` in ``XDG_CACHE_HOME``, else in ``~/.cache``.

    Returns:
        ``None`` where there is none that is safe: it cannot be made or written, it is a link or a file, it belongs to
        another user, or others may change what is in it. The caller then does without a cache.
    """
    place = _place(environ)
    if place is None:
        return None
    try:
        folder = place.parent.resolve() / place.name
        folder.parent.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        if not _keeps_entries(folder.parent):
            return None
        for step in (folder, *(folder.joinpath(*names[: i + 1]) for i in range(len(names)))):
            if not _private(step):
                return None
        return folder.joinpath(*names)
    except (OSError, ValueError):
        return None


def _place(environ: Mapping[str, str]) -> Path | None:
    """Where the folder should be; an empty variable is none, and XDG's standard takes absolute paths only."""
    if named := environ.get(VARIABLE):
        return Path(named).absolute()
    base = Path(environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        home = Path(environ.get("HOME", ""))
        if not home.is_absolute():
            return None
        base = home / ".cache"
    return base / NAME


def _keeps_entries(parent: Path) -> bool:
    """Whether no one else can put another folder in the place of ours."""
    mode = parent.stat().st_mode
    return not mode & stat.S_IWOTH or bool(mode & stat.S_ISVTX)


def _private(folder: Path) -> bool:
    """Make ``folder`` unless it is there; whether it is a folder of this user that only they can write."""
    folder.mkdir(mode=PRIVATE, exist_ok=True)
    found = folder.lstat()
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & _OTHERS_WRITE
    return ours and os.access(folder, os.W_OK | os.X_OK)
