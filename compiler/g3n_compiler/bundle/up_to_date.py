"""A bundle that is already what a compile would make: the same inputs by their fingerprint, each file by its digest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from g3n_compiler.bundle.destination import Destination
from g3n_compiler.bundle.signing import SigningKey, bundle_signature
from g3n_compiler.bundle.staging import translated_disk_errors
from g3n_compiler.bundle.work import BUNDLE, held, release
from g3n_compiler.durable import sync_file, sync_folder
from g3n_runtime.bundle import MANIFEST, MAX_MANIFEST_BYTES, SIGNATURE
from g3n_runtime.errors import BundleError
from g3n_runtime.reading import read_json_object


def is_up_to_date(destination: Destination, key: str) -> bool:
    """Whether the bundle at ``destination`` is the one that a compile with ``key`` makes, its signature apart.

    That each file there is what the manifest says was found when the destination was claimed.

    Raises:
        NotOurs: something there was changed since then.
    """
    if destination.existing is None:
        return False
    manifest = _manifest(destination)
    report = manifest.get("report")
    if report is None or manifest["provenance"].get("fingerprint") != key:
        return False
    files = {MANIFEST, report["path"], *(entry["path"] for entry in manifest["files"])}
    return set(destination.existing.files) - {SIGNATURE} == files


def sign_again(destination: Destination, key: str, sign: SigningKey | None, progress: Callable[[str], None]) -> None:
    """Give the bundle at ``destination`` the signature that was asked for now, or none, and say so.

    Raises:
        Busy: another compile is writing there.
        NotOurs: something there was changed since the destination was claimed.
    """
    path, existing = destination.path, destination.existing
    if existing is None or (sign is None and SIGNATURE not in existing.files):
        return
    with translated_disk_errors(path), held(path, key, destination.kind) as work:
        try:
            manifest = _manifest(destination)
            if sign is None:
                progress("removing the signature, as no --sign was given")
                (path / SIGNATURE).unlink()
            else:
                new = work / BUNDLE / SIGNATURE
                new.write_text(bundle_signature(path, manifest, sign), encoding="utf-8")
                sync_file(new)
                existing.require_unchanged()
                new.replace(path / SIGNATURE)
            sync_folder(path)
        finally:
            release(work)


def _manifest(destination: Destination) -> dict[str, Any]:
    """The manifest that accounted for the files there."""
    assert destination.existing is not None
    manifest = read_json_object(destination.path / MANIFEST, BundleError, MAX_MANIFEST_BYTES)
    destination.existing.require_unchanged()
    return manifest
