"""Open a bundle: manifest against its schema, paths inside the folder, sizes and hashes, before anything is loaded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema

from g3n_runtime.errors import BundleError, HashMismatch, UnsafePath

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

    @property
    def runtimes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(s["runtime"] for s in self.manifest["subgraphs"]))

    def file(self, role: str) -> Path:
        """The one file with ``role``; raises :class:`BundleError` if the bundle has none."""
        for entry in self.manifest["files"]:
            if entry["role"] == role:
                return self.directory / entry["path"]
        have = ", ".join(sorted(e["role"] for e in self.manifest["files"]))
        raise BundleError(f"{self.directory.name} has no {role} (it has {have}): compile it for that runtime")


def schema() -> dict[str, Any]:
    """The published JSON Schema of ``manifest.json``."""
    return json.loads((files("g3n_runtime") / "manifest.schema.json").read_text(encoding="utf-8"))


def open_bundle(directory: Path, *, check_hashes: bool = True) -> Bundle:
    """Read and check the bundle in ``directory``.

    Raises:
        BundleError: no manifest, not valid, or a file missing or of the wrong size.
        UnsafePath: a path that is absolute, climbs out, or is a link.
        HashMismatch: a file whose SHA-256 differs.
    """
    manifest = _read_manifest(directory / MANIFEST)
    for entry in manifest["files"]:
        path = inside(directory, entry["path"])
        if not path.is_file():
            raise BundleError(f"{entry['path']} is missing from {directory}: copy the bundle again")
        if path.stat().st_size != entry["bytes"]:
            raise BundleError(
                f"{entry['path']} has {path.stat().st_size} bytes, the manifest says {entry['bytes']}: copy it again"
            )
        if check_hashes and _sha256(path) != entry["sha256"]:
            raise HashMismatch(
                f"{entry['path']} differs from the hash in the manifest: copy or compile the bundle again"
            )
    return Bundle(directory, manifest)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"{path} has {path.stat().st_size} bytes, at most {MAX_MANIFEST_BYTES} are read")
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"{path} is missing: {path.parent} is not a g3n bundle") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise BundleError(f"{path} is not valid JSON ({error})") from None
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BundleError(f"{path} has schema version {version}, this version reads up to {SCHEMA_VERSION}: update g3n")
    try:
        jsonschema.validate(manifest, schema())
    except jsonschema.ValidationError as error:
        where = "/".join(str(p) for p in error.absolute_path) or "the top"
        raise BundleError(f"{path} does not follow the manifest schema at {where}: {error.message[:200]}") from None
    return manifest


def inside(directory: Path, name: str) -> Path:
    """The file that ``name`` stands for, which must lie in ``directory``.

    Raises:
        UnsafePath: ``name`` is absolute, climbs out, or leads through a link.
    """
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name or not pure.parts:
        raise UnsafePath(f"{name!r} leads out of the folder {directory.name!r}: only files in it are read")
    path = directory.joinpath(*pure.parts)
    if not path.resolve().is_relative_to(directory.resolve()):
        raise UnsafePath(f"{name!r} is a link that leads out of {directory.name!r}: only files in it are read")
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
