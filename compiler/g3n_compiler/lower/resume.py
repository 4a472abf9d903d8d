"""Resumable steps of a compile: their files survive an interruption, and the next run of the same compile reuses them.

A step writes one file, and others beside it if it declares them. The file is written under another name, hashed, and
renamed once it is complete and on disk; its record is written last. Anything without a record, or different from what
its record says, is written again, so an interruption or a power cut costs at most the step in progress.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from g3n_compiler.checkpoint.reader import file_sha256
from g3n_compiler.durable import rename_durably, sync_file, write_durably
from g3n_runtime.errors import BundleError
from g3n_runtime.reading import read_json_object

Progress = Callable[[str], None]
REUSED = "reused from an interrupted compile"
"""What the progress line of a step says that is not made again."""


class Steps:
    """The steps of one compile.

    Args:
        folder: where their files are; it belongs to this compile alone, and never to one with other inputs.
        progress: called for each step as it begins, and for each that is reused.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._progress = progress
        self._made: set[str] = set()

    def file(
        self, name: str, write: Callable[[Path], None], what: str | None = None, beside: Sequence[str] = ()
    ) -> Path:
        """The file ``name``: reused from an earlier run if it is complete, else made by ``write``.

        Args:
            what: a description of the step for the progress line; ``None`` for a step that consists of other steps.
            beside: other files in :attr:`folder` that ``write`` writes under their own names.
        """
        path = self.folder / name
        if name in self._made:
            return path
        if self._is_whole(name, beside):
            self._made.add(name)
            self._progress(f"{name}: {REUSED}")
            return path
        if what is not None:
            self._progress(what)
        self._record(name).unlink(missing_ok=True)
        partial = self._partial(name)
        write(partial)
        record = {file: self._entry(at) for file, at in {name: partial, **self._paths(beside)}.items()}
        rename_durably(partial, path)
        write_durably(self._record(name), json.dumps(record).encode())
        self._made.add(name)
        return path

    def value(self, name: str, compute: Callable[[], Mapping[str, Any]], what: str | None = None) -> dict[str, Any]:
        """A small JSON object, computed or reused in the same way."""

        def write(path: Path) -> None:
            path.write_text(json.dumps(compute()), encoding="utf-8")

        value: dict[str, Any] = json.loads(self.file(name, write, what).read_text(encoding="utf-8"))
        return value

    def discard(self, *names: str) -> None:
        """Remove files whose content later steps have copied."""
        for name in names:
            self._made.discard(name)
            self._record(name).unlink(missing_ok=True)
            (self.folder / name).unlink(missing_ok=True)

    def publish(self, name: str, target: Path) -> None:
        """Make the file ``name`` appear at ``target`` too, without a second copy if the disk can do that."""
        try:
            os.link(self.folder / name, target)
        except OSError:  # the file system has no hard links
            shutil.copyfile(self.folder / name, target)

    def _is_whole(self, name: str, beside: Sequence[str]) -> bool:
        try:
            record = read_json_object(self._record(name), BundleError)
            return record.keys() == {name, *beside} and all(self._is_as_said(*item) for item in record.items())
        except (BundleError, OSError):
            return False

    def _is_as_said(self, file: str, said: object) -> bool:
        path = self.folder / file
        if not stat.S_ISREG(path.lstat().st_mode) or not isinstance(said, dict):
            return False
        return path.stat().st_size == said.get("bytes") and file_sha256(path) == said.get("sha256")

    def _paths(self, names: Sequence[str]) -> dict[str, Path]:
        return {name: self.folder / name for name in names}

    @staticmethod
    def _entry(path: Path) -> dict[str, Any]:
        sync_file(path)
        return {"sha256": file_sha256(path), "bytes": path.stat().st_size}

    def _record(self, name: str) -> Path:
        return self.folder / f"{name}.done"

    def _partial(self, name: str) -> Path:
        return self.folder / f"{name}.partial"
