"""What a calibrated checkpoint says of itself, and what it may still be used for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jsonschema

from g3n_compiler.checkpoint.fields import present
from g3n_compiler.errors import CheckpointError, TargetError
from g3n_runtime.bundle import schema
from g3n_runtime.reading import read_json_object

RECORD = "calibration.json"


@dataclass(frozen=True)
class Calibration:
    """How a checkpoint was rounded."""

    recipe: str
    examples_sha256: str
    examples: int
    matrices: int
    error: float
    """Squared error of the matrices' outputs on the examples, as a part of what plain rounding's would be."""
    source: Mapping[str, str]
    """Hashes of the files that it was made from."""


def read_calibration(directory: Path) -> Calibration | None:
    """The record of a calibrated checkpoint; ``None`` for a plain one."""
    path = directory / RECORD
    if not present(path):
        return None
    found = read_json_object(path, CheckpointError)
    try:
        jsonschema.validate(found, schema()["properties"]["provenance"]["properties"]["calibration"])
    except jsonschema.ValidationError as error:
        raise CheckpointError(f"{path} is no record of g3n-calibrate ({error.message[:99]}): calibrate again") from None
    return Calibration(**found)


def check_calibration(directory: Path, recipe: str, changed_by: str | None) -> None:
    """Refuse what would lose the rounding: another recipe, a slice or an adapter over it.

    Args:
        changed_by: the option that makes other weights of the checkpoint's.
    """
    found = read_calibration(directory)
    if found is None:
        return
    if recipe != found.recipe:
        raise TargetError(
            f"{directory} was calibrated for {found.recipe} and holds nothing finer: compile it with --quant "
            f"{found.recipe}, or the checkpoint that it was made from with {recipe}"
        )
    if changed_by is not None:
        raise TargetError(f"{directory} is calibrated, {changed_by} would undo that: pass what it was made from")
