"""What a fuzz case is: files of a folder, some of which are no files at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["file", "folder", "pipe", "zeros", "loop", "unreadable", "missing"]


@dataclass(frozen=True)
class Entry:
    """What lies under a name."""

    kind: Kind = "file"
    data: bytes = b""
    size: int | None = None
    """Bytes of the file, where it goes on with a hole of zeros after ``data``."""

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.kind == "file":
            path.write_bytes(self.data)
            if self.size is not None:
                os.truncate(path, self.size)
        elif self.kind == "folder":
            path.mkdir()
        elif self.kind == "pipe":
            os.mkfifo(path)
        elif self.kind == "zeros":
            path.symlink_to("/dev/zero")
        elif self.kind == "loop":
            path.symlink_to(path.name)
        elif self.kind == "unreadable":
            path.symlink_to("/proc/self/mem")


Case = Mapping[str, Entry]
"""Files by their path in the folder that the reader is given; the rest of the folder is the seed's."""


def lay_out(case: Case, base: Path, folder: Path) -> None:
    """Make ``folder`` the seed's ``base`` with the files of ``case`` instead of its own."""
    folder.mkdir()
    for path in sorted(base.rglob("*")):
        name = path.relative_to(base)
        if str(name) in case:
            continue
        if path.is_dir():
            (folder / name).mkdir(exist_ok=True)
        else:
            os.link(path, folder / name)
    for name, entry in case.items():
        entry.write(folder / name)


def remove(folder: Path) -> None:
    """Delete what :func:`lay_out` made, whatever a reader did to it."""
    shutil.rmtree(folder, ignore_errors=True)


def contents(folder: Path) -> list[str]:
    """What lies in ``folder``, by name."""
    return sorted(
        str(Path(at, name).relative_to(folder)) for at, *names in os.walk(folder) for n in names for name in n
    )
