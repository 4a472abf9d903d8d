"""What a compile needs of the machine, checked before it starts so that it does not fail at its end."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from g3n_compiler.errors import DiskError, ResourceError
from g3n_compiler.lower.backend import Backend
from g3n_compiler.models.embedding_tables import embedding_weights
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.models.registry import text_weights
from g3n_compiler.models.weights import WeightSpec
from g3n_compiler.quantize.recipe import Recipe
from g3n_runtime.machine import memory_room

COPIES_ON_DISK = 2
"""A section is also a file of its own until the bundle is packed."""
TOOLCHAIN_MEMORY = 700_000_000
"""Resident bytes of the process with its toolchain loaded (x86-64, Linux)."""
FLOAT32 = 4
TOWER_SHARE = 1.65
"""Memory while onnxruntime runs a tower, relative to the tower's weights in float32: E2B's audio tower, 2.7 GB of them,
took 5.2 GB with the toolchain."""
GB = 1e9


class Needs(NamedTuple):
    """Bytes."""

    memory: int
    disk: int


def compile_needs(
    config: TextConfig,
    recipe: Recipe,
    backends: Sequence[Backend],
    singles: int = 0,
    towers: Sequence[Sequence[WeightSpec]] = (),
) -> Needs:
    """Peak memory and disk space for compiling with ``backends``, one after the other.

    Args:
        singles: programs more that hold the whole model.
        towers: the weights of each tower that is compiled.
    """
    text = [*text_weights(config).values(), *embedding_weights(config).values()]
    size = sum(recipe.stored_bytes(weights) for weights in (text, *towers))
    whole = max((sum(FLOAT32 * math.prod(w.shape) for w in weights) for weights in towers), default=0)
    steps = [backend.compile_memory(config, recipe) for backend in backends]
    memory = TOOLCHAIN_MEMORY + max(*steps, int(whole * TOWER_SHARE))
    return Needs(memory, COPIES_ON_DISK * size * (len(backends) + singles))


def require(needs: Needs, destination: Path) -> str:
    """Refuse what cannot succeed; returns what is needed and what is free, in words.

    Raises:
        DiskError, ResourceError: too little disk or memory is free.
    """
    folder = next(p for p in (destination, *destination.absolute().parents) if p.exists())
    disk, memory = shutil.disk_usage(folder).free, memory_room()
    if needs.disk > disk:
        raise DiskError(
            f"compiling to {destination} needs {needs.disk / GB:.1f} GB of disk, but {disk / GB:.1f} GB are free: "
            "free some or choose another --out"
        )
    if needs.memory > memory.nbytes:
        raise ResourceError(
            f"compiling needs {needs.memory / GB:.1f} GB of memory, but {memory.nbytes / GB:.1f} GB are available "
            f"(bounded by {memory.bound}): close other programs, raise the limit or use a larger machine"
        )
    has = f"{memory.nbytes / GB:.1f} and {disk / GB:.1f} GB"
    return f"needs {needs.memory / GB:.1f} GB of memory and {needs.disk / GB:.1f} GB of disk; free: {has}"
