"""Weights as the bytes that XNNPACK's delegate requests by name, written one at a time and never held together.

A name is the SHA-256 of the bytes, as in XNNPACK's own serializer; the runtime may cache packed weights by name for all
programs of a process.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from g3n_compiler.lower.executorch.weights import PartsOf, part_shapes
from g3n_compiler.models.weights import WeightSpec
from g3n_compiler.quantize.recipe import Recipe, Scheme
from g3n_runtime.errors import BundleError
from g3n_runtime.reading import read_json_object

IN_MEMORY = 64 << 10
"""Parts up to this many bytes are kept in memory instead of in a file."""


@dataclass
class StoredWeights:
    """The parts of weights: their names, and the bytes, in memory or in files, of those that go into the program."""

    names: dict[tuple[str, str], str] = field(default_factory=dict)
    """By weight and part."""
    data: dict[str, bytes | Path] = field(default_factory=dict)
    """By name; weights in the data file are not included."""

    def tensor(self, weight: str, part: str, shape: Sequence[int]) -> Tensor:
        """A part that is stored as float32, with its ``shape``."""
        held = self.data[self.names[weight, part]]
        data = held if isinstance(held, bytes) else held.read_bytes()
        return torch.frombuffer(bytearray(data), dtype=torch.float32).view(*shape)

    def parts(self, weight: str) -> dict[str, str]:
        """Names of a weight's parts."""
        return {part: name for (owner, part), name in self.names.items() if owner == weight}


def store_weights(
    specs: Mapping[str, WeightSpec],
    recipe: Recipe,
    parts: PartsOf,
    folder: Path,
    outside: Mapping[str, Mapping[str, str]],
) -> StoredWeights:
    """Encode ``specs``, large parts as files in ``folder``; parts from an earlier run are reused if they have the
    hashes that it recorded.

    Args:
        outside: weights whose bytes are already in the data file, with the names of their parts there.
    """
    stored = StoredWeights()
    for weight, spec in specs.items():
        if weight in outside:
            stored.names |= {(weight, part): name for part, name in outside[weight].items()}
            continue
        scheme = recipe.scheme(spec)
        paths = {part: folder / f"{weight}-{scheme.label}-{part or 'all'}" for part in part_shapes(spec, scheme)}
        record = folder / f"{weight}-{scheme.label}.json"
        encoded = _kept(paths, record)
        if encoded is None:
            encoded = {part: encode(part, scheme, tensor) for part, tensor in parts(spec, scheme).items()}
            for part, path in paths.items():
                path.write_bytes(encoded[part])
            names = {part: data_name(part, data) for part, data in encoded.items()}
            # a later run hashes what it reuses, so waiting for the disk a thousand times is not needed
            record.write_text(json.dumps(names), encoding="utf-8")
        for part, data in encoded.items():
            name = data_name(part, data)
            stored.names[weight, part] = name
            stored.data[name] = data if len(data) <= IN_MEMORY else paths[part]
    return stored


def encode(part: str, scheme: Scheme, tensor: Tensor) -> bytes:
    """A part as XNNPACK's serializer writes it: int4 two values per byte, everything else unchanged."""
    from executorch.backends.xnnpack.operators.node_visitor import NodeVisitor

    if part == "values" and scheme.bits == 4:
        tensor = NodeVisitor.convert_to_qc4w(tensor)
    return tensor.contiguous().numpy().tobytes()


def data_name(part: str, data: bytes) -> str:
    """The delegate graph's name for ``data``."""
    return ("scale_" if part == "scales" else "") + hashlib.sha256(data).hexdigest()


def _kept(paths: Mapping[str, Path], record: Path) -> dict[str, bytes] | None:
    """The parts at ``paths`` from an earlier run, if they match ``record``; ``None`` if any does not."""
    try:
        names = read_json_object(record, BundleError)
        encoded = {part: path.read_bytes() for part, path in paths.items()}
    except (BundleError, OSError):
        return None
    return encoded if names == {part: data_name(part, data) for part, data in encoded.items()} else None
