"""The folder in which engines' files are kept: its mark, its lock, and how much of the disk it may take."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from g3n_runtime.cache_folder import cache_folder
from g3n_runtime.errors import G3nError
from g3n_runtime.kept_file import remove
from g3n_runtime.reading import read_text

ENGINES, IN_USE = "engines", "in-use"
TAG = "CACHEDIR.TAG"
TAG_TEXT = (
    "Signature: 8a477f597d28d172789f06886806bc55\n# What engines made of models, kept by g3n: it can be deleted.\n"
)
"""The mark that backup programs know too."""
MOST_TAG_BYTES = 4096
MOST_BYTES = 12 << 30
"""All kept files together; beyond it those that were not used for longest are deleted."""
SPARE_BYTES = 64 << 20
"""Room that is left on the disk when an engine fills its cache, which is at most as large as the model."""
LOCK_SECONDS = 5.0


def marked() -> bool:
    """Whether the folder of all engines is ours: it carries our mark, or is empty and gets it."""
    engines = cache_folder(ENGINES)
    if engines is None:
        return False
    try:
        tag = engines / TAG
        if not tag.is_file() and not any(engines.iterdir()):
            tag.write_text(TAG_TEXT, encoding="utf-8")
        return read_text(tag, MOST_TAG_BYTES, G3nError) == TAG_TEXT
    except (OSError, G3nError):
        return False


@contextlib.contextmanager
def locked(in_use: Path) -> Iterator[None]:
    """Hold the lock over the names of all kept files; ``OSError`` if somebody else does for long."""
    descriptor = os.open(
        in_use.with_name("lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600
    )
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def clear(in_use: Path) -> None:
    """Remove the folders of loads whose process has ended."""
    for folder in in_use.iterdir():
        if folder.is_symlink() or not folder.is_dir():
            remove(folder)
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def has_room(folder: Path, room: int) -> bool:
    """Whether ``room`` bytes can be written, under a quota too: LiteRT-LM ends the process when its cache cannot."""
    if shutil.disk_usage(folder).free < room + SPARE_BYTES:
        return False
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            if room and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, room)
        except OSError:
            return False
    return True


def bound(engines: Path) -> None:
    """Delete the models' folders that were not used for longest, until all have at most :data:`MOST_BYTES`."""
    folders = [model for engine in engines.iterdir() if engine.name != IN_USE for model in _folders(engine)]
    used = {folder: _last_use(folder) for folder in folders}
    sizes = {folder: sum(path.lstat().st_size for path in folder.iterdir()) for folder in folders}
    total = sum(sizes.values())
    for folder in sorted(folders, key=lambda f: used[f])[:-1]:
        if total <= MOST_BYTES:
            break
        shutil.rmtree(folder, ignore_errors=True)
        total -= sizes[folder]


def _folders(folder: Path) -> list[Path]:
    if folder.is_symlink() or not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]


def _last_use(folder: Path) -> float:
    return max((path.lstat().st_mtime for path in folder.iterdir()), default=0.0)
