"""Steps of a compile whose files outlive it when it is killed, so that the same compile can go on from there.

A step writes one file. It is written under another name, hashed, and renamed when it is whole; its record, renamed
last, says so. Whatever has no record is written again, so a kill costs at most the step in work.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from g3n_compiler.checkpoint.reader import file_sha256

Progress = Callable[[str], None]


class Steps:
    """The steps of one compile.

    Args:
        folder: where their files lie; it belongs to this compile alone, and to nothing with other inputs.
        progress: told of each step as it begins, and of each that is kept.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._progress = progress
        self._made: set[str] = set()

    def file(self, name: str, write: Callable[[Path], None], what: str | None = None) -> Path:
        """The file ``name``, kept from an earlier run if it is whole, else made by ``write``.

        Args:
            what: the step in words, said before it; nothing is said for a step that is made of others.
        """
        path = self.folder / name
        if name in self._made:
            return path
        if self._is_whole(name):
            self._made.add(name)
            self._progress(f"{name}: kept from a compile that was interrupted")
            return path
        if what is not None:
            self._progress(what)
        partial = self._partial(name)
        write(partial)
        record = {"sha256": file_sha256(partial), "bytes": partial.stat().st_size}
        _sync(partial)
        partial.rename(path)
        partial.write_text(json.dumps(record), encoding="utf-8")
        _sync(partial)
        partial.rename(self._record(name))
        self._made.add(name)
        return path

    def value(self, name: str, compute: Callable[[], Mapping[str, Any]], what: str | None = None) -> dict[str, Any]:
        """A small JSON object, kept likewise."""

        def write(path: Path) -> None:
            path.write_text(json.dumps(compute()), encoding="utf-8")

        value: dict[str, Any] = json.loads(self.file(name, write, what).read_text(encoding="utf-8"))
        return value

    def discard(self, *names: str) -> None:
        """Remove files that later steps have taken up."""
        for name in names:
            self._made.discard(name)
            self._record(name).unlink(missing_ok=True)
            (self.folder / name).unlink(missing_ok=True)

    def publish(self, name: str, directory: Path) -> None:
        """Let the file ``name`` appear in ``directory`` too, without a second copy where the disk can."""
        target = directory / name
        try:
            os.link(self.folder / name, target)
        except OSError:
            shutil.copyfile(self.folder / name, target)

    def _is_whole(self, name: str) -> bool:
        path, record = self.folder / name, self._record(name)
        if not record.is_file() or not path.is_file():
            return False
        said = json.loads(record.read_text(encoding="utf-8"))
        return bool(path.stat().st_size == said["bytes"] and file_sha256(path) == said["sha256"])

    def _record(self, name: str) -> Path:
        return self.folder / f"{name}.done"

    def _partial(self, name: str) -> Path:
        return self.folder / f"{name}.partial"


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
