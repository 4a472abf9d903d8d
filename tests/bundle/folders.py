"""A small kind of folder to put in place, and what lies in one, byte for byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from g3n_compiler.bundle.owned import Digest, Kind, Listing
from g3n_compiler.errors import NotOurs

RECORD = "manifest.json"


def write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Write ``files`` and their record."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    write_record(folder)


def write_record(folder: Path) -> None:
    files = {
        str(path.relative_to(folder)): (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != RECORD
    }
    (folder / RECORD).write_text(json.dumps(files), encoding="utf-8")


def read_record(folder: Path) -> Listing:
    if not (folder / RECORD).is_file():
        raise NotOurs(f"{folder} has no record")
    found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return Listing({path: Digest(*entry) for path, entry in found.items()})


SMALL = Kind("small folder", RECORD, read_record)


def content(folder: Path) -> dict[str, object]:
    """Everything below ``folder``: bytes of files, targets of links, kinds of the rest."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_file():
            found[name] = path.read_bytes()
        else:
            found[name] = "folder" if path.is_dir() else "other"
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
