"""One hash over everything that decides a bundle's bytes: two compiles with the same key make the same bundle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import g3n_compiler
import g3n_runtime
from g3n_compiler.checkpoint.reader import READ_BY_NAME, file_sha256
from g3n_compiler.nano import checkpoint_dir

DRAWING = ("jinja2", "matplotlib")
"""Distributions that decide the bytes of a report."""


def bundle_key(
    checkpoint: Path, weights: Mapping[str, str], options: Mapping[str, Any], packages: Iterable[str]
) -> str:
    """Hex SHA-256 of everything that decides a bundle's bytes.

    Args:
        checkpoint: the checkpoint's folder.
        weights: hashes of the shards and the config, by file name.
        options: everything else that the compile was asked for, as JSON values.
        packages: distributions whose versions decide the bytes.
    """
    present = [name for name in READ_BY_NAME if (checkpoint / name).is_file()]
    inputs = {
        "weights": dict(weights),
        "text": {name: file_sha256(checkpoint / name) for name in present},
        "options": dict(options),
        "code": _code_hashes(),
        "toolchains": {name: version(name) for name in packages},
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def as_json(value: object) -> Any:
    """``value`` as JSON values; of a dataclass, every field by its name.

    Raises:
        TypeError: something in it has no such form.
    """
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(name): as_json(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [as_json(item) for item in value]
    if is_dataclass(value):
        return {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
    raise TypeError(f"a {type(value).__name__} has no form as JSON: say what of it decides the bundle's files")


def _code_hashes() -> dict[str, str]:
    """Hashes of the two packages' files, also of templates, tables and examples; weights are counted by themselves."""
    packages = [Path(package.__file__ or "").parent for package in (g3n_compiler, g3n_runtime)]
    return {
        str(path.relative_to(package.parent)): file_sha256(path)
        for package in packages
        for path in sorted(package.rglob("*"))
        if path.parent.name != "__pycache__" and path.parent != checkpoint_dir() and path.is_file()
    }
