"""The record of a calibrated checkpoint, and what such a checkpoint can still be used for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jsonschema

from g3n_compiler.checkpoint.fields import present
from g3n_compiler.checkpoint.reader import file_sha256
from g3n_compiler.errors import CheckpointError, TargetError
from g3n_runtime.bundle import schema
from g3n_runtime.json_digest import DIGEST, has_right_digest, with_digest
from g3n_runtime.reading import read_json_object

RECORD = "calibration.json"
FILES = "files"
_FILES_SCHEMA = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "properties": {
            "bytes": {"type": "integer", "minimum": 0},
            "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        },
        "required": ["bytes", "sha256"],
        "additionalProperties": False,
    },
}


@dataclass(frozen=True)
class Calibration:
    """How a checkpoint was rounded."""

    recipe: str
    examples_sha256: str
    examples: int
    matrices: int
    error: float
    """Squared error of the matrices' outputs on the examples, relative to that of plain rounding."""
    source: Mapping[str, str]
    """Hashes of the files that it was made from."""
    rewritten: bool = False
    """Whether its weights were rewritten before they were rounded, so that nobody needs to do it again."""
    adapter: Mapping[str, str] | None = None
    """Hashes of the files of the adapter that was merged into it."""
    slice: Mapping[str, Sequence[int]] | None = None
    """Layers of the source that it holds, and the FFN width of each; ``None`` if it is the whole source."""
    elastic: Sequence[str] | None = None
    """The sizes that it was rounded for, the largest first; ``None`` if for one."""
    loss: Mapping[str, Any] | None = None
    """What rounding it cost on held texts, against its source in float32: some fields of
    :class:`g3n_compiler.verify.loss.Loss`."""


def read_calibration(directory: Path) -> Calibration | None:
    """The record of a calibrated checkpoint; ``None`` for a plain one."""
    path = directory / RECORD
    if not present(path):
        return None
    found = read_json_object(path, CheckpointError)
    found = {key: value for key, value in found.items() if key not in (FILES, DIGEST)}
    try:
        jsonschema.validate(found, schema()["properties"]["provenance"]["properties"]["calibration"])
    except jsonschema.ValidationError as error:
        raise CheckpointError(
            f"{path} is not a record of g3n-calibrate ({error.message[:99]}): calibrate again"
        ) from None
    try:
        return Calibration(**found)
    except TypeError:
        raise CheckpointError(f"{path} is of a newer g3n: update this one, or calibrate again") from None


def write_calibration(directory: Path, record: Calibration) -> None:
    """Write the record, which lists all files of ``directory`` and protects itself with its own digest."""
    files = {
        path.relative_to(directory).as_posix(): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    whole = with_digest({**asdict(record), FILES: files})
    (directory / RECORD).write_text(json.dumps(whole, indent=1), encoding="utf-8")


def listed_files(directory: Path) -> dict[str, dict[str, Any]] | None:
    """``bytes`` and ``sha256`` of each file that the record lists; ``None`` if it lists none or was changed since.

    Raises:
        CheckpointError: there is no record.
    """
    if read_calibration(directory) is None:
        raise CheckpointError(f"{directory} has no {RECORD}")
    found = read_json_object(directory / RECORD, CheckpointError)
    try:
        jsonschema.validate(found.get(FILES), _FILES_SCHEMA)
    except jsonschema.ValidationError:
        return None
    files: dict[str, dict[str, Any]] = found[FILES]
    return files if has_right_digest(found) else None


def check_calibration(directory: Path, recipe: str, changed_by: str | None, sizes: Sequence[str] = ()) -> None:
    """Refuse what would undo the rounding: another recipe, a slice, an adapter, or other sizes.

    Args:
        changed_by: the option that changes the checkpoint's weights.
        sizes: the names of the sizes that are compiled, if they are several.
    """
    found = read_calibration(directory)
    if found is None:
        return
    if recipe != found.recipe:
        raise TargetError(
            f"{directory} was calibrated for {found.recipe} and holds no finer weights: compile it with --quant "
            f"{found.recipe}, or the checkpoint that it was made from with {recipe}"
        )
    if changed_by is not None:
        raise TargetError(
            f"{directory} is calibrated, and {changed_by} would undo that: calibrate the checkpoint that it was made "
            f"from with {changed_by}, or compile that one"
        )
    if sorted(sizes) != sorted(found.elastic or ()):
        had = "without --elastic" if found.elastic is None else f"with --elastic {','.join(found.elastic)}"
        raise TargetError(
            f"{directory} was calibrated {had}: compile it {had}, or calibrate the checkpoint that it was made from "
            "for the sizes that you want"
        )


def refuse_later_adapters(directory: Path) -> None:
    """Raise for a calibrated checkpoint whose values were rotated: an adapter of the checkpoint that it was made from
    would have to follow rotations that nobody kept.
    """
    found = read_calibration(directory)
    if found is not None and found.rewritten:
        raise TargetError(
            f"{directory} is calibrated, and its values of attention were rotated, which adapters of the checkpoint "
            "that it was made from do not know: compile that one with --lora-rank, or merge the adapter with "
            "g3n-calibrate --lora"
        )
