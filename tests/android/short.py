"""A bundle of a few bytes a file, whose manifest is a real one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from g3n_runtime.bundle import MANIFEST
from tests.android.golden import DIRECTORY
from tests.android.signed import shrink


def write_short_bundle(folder: Path, contents: Mapping[str, bytes] | None = None) -> None:
    """Write it into ``folder``, with ``contents`` by path, or each file's own path as its content."""
    manifest = json.loads((DIRECTORY / "manifest_short.json").read_text(encoding="utf-8"))
    written = dict(contents) if contents else {entry["path"]: entry["path"].encode() for entry in manifest["files"]}
    for path, data in written.items():
        (folder / path).write_bytes(data)
    shrink(manifest, written)
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
