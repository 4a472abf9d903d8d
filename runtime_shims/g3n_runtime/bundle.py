"""Open a bundle: manifest against its schema, paths inside the folder, sizes and hashes, before anything is loaded.

Each file is opened once, and stays open as long as the bundle is used: what was hashed is what an engine gets, whatever
lies at its path then (:mod:`g3n_runtime.open_file` says where an engine cannot be given an open file).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

from g3n_runtime.errors import BundleError, UnsafePath
from g3n_runtime.manifest_check import fault
from g3n_runtime.open_file import OpenFile
from g3n_runtime.reading import read_json_object
from g3n_runtime.terminal import printable_line

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
"""The signature over the manifest and its files, if the bundle is signed; the manifest does not list it."""
SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 16 << 20


@dataclass(frozen=True)
class Bundle:
    """A checked bundle folder and its manifest."""

    directory: Path
    manifest: dict[str, Any]
    files: Mapping[str, OpenFile] = field(default_factory=dict, repr=False, compare=False)
    """The open files by their paths in the manifest."""

    @property
    def runtimes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(s["runtime"] for s in self.manifest["subgraphs"]))

    @property
    def paths(self) -> dict[str, Path]:
        """Where the files lie, by their roles."""
        return {entry["role"]: self.directory / entry["path"] for entry in self.manifest["files"]}

    def file(self, role: str) -> Path:
        """The one file with ``role``; raises :class:`BundleError` if the bundle has none."""
        return self.directory / self._entry(role)["path"]

    def open_file(self, role: str) -> OpenFile:
        """As :meth:`file`, the file itself as it was checked."""
        entry = self._entry(role)
        return self.files.get(entry["path"]) or OpenFile(self.directory / entry["path"])

    def verify(self) -> None:
        """Hash the open files; raises :class:`g3n_runtime.errors.HashMismatch` if one differs from the manifest."""
        for entry in self.manifest["files"]:
            self.open_file(entry["role"]).verify(entry["sha256"])

    def require_unchanged(self) -> None:
        """See that the files that were checked are still what their paths lead to, for a reader that goes by those.

        Raises:
            HashMismatch: one is not.
        """
        for file in self.files.values():
            file.require_unchanged(by_path=True)

    def identities(self) -> dict[str, list[int]]:
        """What :func:`open_bundle` takes in another process, which then need not hash the same files."""
        return {path: list(file.identity) for path, file in self.files.items() if file.verified}

    def _entry(self, role: str) -> dict[str, Any]:
        for entry in self.manifest["files"]:
            if entry["role"] == role:
                return dict(entry)
        have = ", ".join(sorted(e["role"] for e in self.manifest["files"]))
        raise BundleError(f"{self.directory.name} has no {role} (it has {have}): compile it for that runtime")


def schema() -> dict[str, Any]:
    """The published JSON Schema of ``manifest.json``."""
    return dict(json.loads(_schema_text()))


@functools.cache
def _schema_text() -> str:
    return (files("g3n_runtime") / "manifest.schema.json").read_text(encoding="utf-8")


def open_bundle(
    directory: Path, *, check_hashes: bool = True, verified: Mapping[str, Sequence[int]] | None = None
) -> Bundle:
    """Read and check the bundle in ``directory``.

    Args:
        verified: :meth:`Bundle.identities` of a process that has hashed the files; they must be the same still.

    Raises:
        BundleError: no manifest, not valid or contradicting itself, or a file missing or of the wrong size.
        UnsafePath: a path that is absolute, climbs out, or is a link.
        HashMismatch: a file whose SHA-256 differs.
    """
    manifest = _read_manifest(directory / MANIFEST)
    held: dict[str, OpenFile] = {}
    places: dict[tuple[int, ...], str] = {}
    for entry in manifest["files"]:
        name = entry["path"]
        path = inside(directory, name)
        try:
            file = held[name] = OpenFile(path, _Missing)
        except _Missing as reason:
            raise BundleError(f"{reason}: copy the bundle again") from None
        if file.size != entry["bytes"]:
            raise BundleError(f"{name} has {file.size} bytes, the manifest says {entry['bytes']}: copy it again")
        if (other := places.setdefault(file.identity[:2], entry["sha256"])) != entry["sha256"]:
            raise BundleError(f"{name} is another file of the bundle, which has SHA-256 {other}: copy the bundle again")
        if verified is not None:
            if list(verified.get(name, ())) != list(file.identity):
                raise BundleError(f"{name} was changed since it was checked: start again")
            file.trust(entry["sha256"])
        elif check_hashes:
            file.verify(entry["sha256"])
    return Bundle(directory, manifest, held)


class _Missing(BundleError):
    """A file cannot be opened."""


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = read_json_object(path, BundleError, MAX_MANIFEST_BYTES, _Missing)
    except _Missing:
        raise BundleError(_not_a_bundle(path.parent)) from None
    version = manifest.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        shown = str(version) if version.bit_length() < 64 else "of many digits"
        raise BundleError(f"{path} has schema version {shown}, this version reads up to {SCHEMA_VERSION}: update g3n")
    if (wrong := fault(manifest, schema())) is not None:
        raise BundleError(f"{path} {printable_line(wrong)}")
    return manifest


def _not_a_bundle(named: Path) -> str:
    """Why there is no manifest in what was named as a bundle's folder, and what to name instead."""
    if named.is_dir():
        return f"{named} is not a g3n bundle: it has no {MANIFEST}"
    if not named.exists():
        return f"there is no folder {named}: name one that g3n-compile has written"
    if (named.parent / MANIFEST).is_file():
        return f"{named} is one file of a bundle: name its folder, {named.parent.absolute()}"
    return f"{named} is not a g3n bundle, but a file: name a folder that g3n-compile has written"


def inside(directory: Path, name: str) -> Path:
    """The file that ``name`` stands for, which must lie in ``directory``.

    Raises:
        UnsafePath: ``name`` is absolute, climbs out, or leads through a link.
    """
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name or not pure.parts:
        raise UnsafePath(f"{name!r} leads out of the folder {directory.name!r}: only files in it are read")
    path = directory.joinpath(*pure.parts)
    try:
        is_inside = path.resolve().is_relative_to(directory.resolve())
    except (OSError, RuntimeError, ValueError):  # links in a circle, or a name too long
        raise UnsafePath(f"{name[:200]!r} leads nowhere in the folder {directory.name!r}: copy it again") from None
    if not is_inside:
        raise UnsafePath(f"{name!r} is a link that leads out of {directory.name!r}: only files in it are read")
    return path
