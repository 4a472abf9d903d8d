"""The kinds of folder that g3n writes, and how the record in each is read to account for its files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema

from g3n_compiler.bundle.owned import REMEDY, Digest, Extra, Kind, Listing
from g3n_compiler.checkpoint.calibrated import RECORD, listed_files
from g3n_compiler.errors import BundleError, CheckpointError, NotOurs
from g3n_compiler.report import REPORT
from g3n_runtime.bundle import MANIFEST, MAX_MANIFEST_BYTES, SCHEMA_VERSION, SIGNATURE, schema
from g3n_runtime.json_digest import DIGEST, has_right_digest
from g3n_runtime.reading import parse_json, read_bytes
from g3n_runtime.terminal import printable_line

MAX_SIGNATURE_BYTES = 64 << 10
MAX_REPORT_BYTES = 64 << 20
SIGNATURE_TYPE = "application/vnd.dev.sigstore.bundle"
"""How the media type of a ``model-signing`` file begins."""
OLD_CACHE = ".cache"
"""Where bundles kept the engines' caches before these moved to the user's cache folder."""
_TFLITE, _TFLITE_AT = b"TFL3", 4
_PACKED_VERSION, _PACKED_HEADER = 4, 24
"""XNNPACK's file of packed weights begins with its version and with the position and length of its list of weights,
eight bytes each; the list is at the end of the file."""


def _bundle_listing(folder: Path) -> Listing:
    path = folder / MANIFEST
    try:
        data = read_bytes(path, MAX_MANIFEST_BYTES, BundleError)
        manifest = parse_json(data, str(path), BundleError)
        jsonschema.validate(manifest, schema())
    except (BundleError, jsonschema.ValidationError):
        raise _no_record(folder, MANIFEST) from None
    if manifest["schema_version"] > SCHEMA_VERSION or not _as_written(manifest, data):
        raise NotOurs(f"{printable_line(str(path))} was changed since g3n wrote it: {REMEDY}")
    files = _digests({entry["path"]: entry for entry in manifest["files"]})
    report = manifest.get("report")
    if report is not None:
        files[report["path"]] = Digest(report["bytes"], report["sha256"])

    def extra(path: str) -> Extra | None:
        if path == SIGNATURE:
            return Extra(MAX_SIGNATURE_BYTES, MAX_SIGNATURE_BYTES, lambda data, size: _is_signature(data))
        if path == REPORT and report is None:
            return Extra(MAX_REPORT_BYTES, MAX_REPORT_BYTES, lambda data, size: _is_report(data))
        return _of_old_cache(path, manifest)

    return Listing(files, extra, frozenset({OLD_CACHE}))


def _calibrated_listing(folder: Path) -> Listing:
    try:
        files = listed_files(folder)
    except CheckpointError:
        raise _no_record(folder, RECORD) from None
    if files is None:
        raise _no_record(folder, RECORD)
    return Listing(_digests(files))


BUNDLE = Kind("bundle", MANIFEST, _bundle_listing)
CALIBRATED = Kind("calibrated checkpoint", RECORD, _calibrated_listing)


def _no_record(folder: Path, record: str) -> NotOurs:
    return NotOurs(
        f"{printable_line(str(folder))} exists and is not g3n's, or is from a version that listed no files (it has no "
        f"{record} that accounts for what is in it): {REMEDY}"
    )


def _digests(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Digest]:
    return {path: Digest(entry["bytes"], entry["sha256"]) for path, entry in entries.items()}


def _as_written(manifest: dict[str, Any], data: bytes) -> bool:
    """Older manifests have no digest; those must at least be formatted as g3n writes them."""
    if DIGEST in manifest:
        return has_right_digest(manifest)
    return data == (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()


def _is_signature(data: bytes) -> bool:
    try:
        value = parse_json(data, SIGNATURE, BundleError)
    except BundleError:
        return False
    return isinstance(value, dict) and str(value.get("mediaType", "")).startswith(SIGNATURE_TYPE)


def _is_report(data: bytes) -> bool:
    head = data[:1000]
    return head.startswith(b'<!doctype html>\n<html lang="en">\n') and " — g3n report</title>".encode() in head


def _of_old_cache(path: str, manifest: Mapping[str, Any]) -> Extra | None:
    """What engines and our loops kept in a bundle, by the exact names that follow from this bundle."""
    folder, _, name = path.partition("/")
    model = next((entry for entry in manifest["files"] if entry["role"] == "litertlm"), None)
    if folder != OLD_CACHE or model is None:
        return None
    digest, whole = model["sha256"][:16], model["bytes"]
    packed = rf"{re.escape(model['path'])}_\d{{1,20}}_{whole}\.xnnpack_cache|weights-{digest}\.xnnpack"
    if re.fullmatch(packed, name, re.ASCII):
        return Extra(1 << 40, _PACKED_HEADER, _is_packed)
    copies = {f"{part}-{digest}.tflite": at for part, at in (manifest.get("elastic") or {}).items()}
    if name not in copies:
        return None
    begin, end = copies[name]
    return Extra(end - begin, 8, lambda data, size: size == end - begin and data[_TFLITE_AT:] == _TFLITE)


def _is_packed(header: bytes, size: int) -> bool:
    version, begin, length = (int.from_bytes(header[at : at + 8], "little") for at in range(0, _PACKED_HEADER, 8))
    return version == _PACKED_VERSION and begin + length == size
