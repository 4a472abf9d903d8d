"""What a compile needs of the machine, said and checked before it starts instead of found out at its end."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from g3n_compiler.checkpoint.config import TextConfig
from g3n_compiler.errors import DiskError, ResourceError
from g3n_compiler.modules.weights import WeightSpec, embedding_weights, text_weights
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.targets import Runtime
from g3n_runtime.machine import memory_room

SCALE_BYTES = 4
COPIES_ON_DISK = 2
"""A section lies on the disk by itself until the bundle is packed."""
TOOLCHAIN_MEMORY = 700_000_000
"""Resident bytes of the process with its toolchain loaded (x86-64, Linux)."""
CONVERTER_MEMORY = 1_000_000_000
LAYER_MEMORY = 30_000_000
"""Of the process that converts LiteRT's graph, and of each layer in it: 1.7 GB were measured for E2B's 30 layers."""
ENGINE_MEMORY: dict[Runtime, int] = {"litert": 1_250_000_000, "executorch": 800_000_000}
"""Caches, activations and touched rows at a context of 4096, beside the packed core, while the whole graph is compared
and the engine speaks. Measured for compiles of E2B and E4B at int4, everything counted: 3.5 and 4.5 GB (LiteRT), 5.4
and 6.7 GB (ExecuTorch).
"""
GB = 1e9


class Needs(NamedTuple):
    """Bytes."""

    memory: int
    disk: int


def compile_needs(config: TextConfig, recipe: Recipe, runtimes: Sequence[Runtime]) -> Needs:
    """Peak memory and disk of compiling to ``runtimes``, one after the other."""
    text, tables = text_weights(config).values(), embedding_weights(config).values()
    size = sum(recipe.scheme(w).nbytes(w.shape) + SCALE_BYTES * w.shape[0] for w in (*text, *tables))
    memory = max(_peak(config, recipe, runtime) for runtime in runtimes)
    return Needs(memory, COPIES_ON_DISK * size * len(runtimes))


def _peak(config: TextConfig, recipe: Recipe, runtime: Runtime) -> int:
    def total(specs: Iterable[WeightSpec]) -> int:
        return sum(recipe.scheme(w).nbytes(w.shape) for w in specs)

    packed = total(text_weights(config).values())
    if runtime == "litert":
        # Packed weights are mapped instead of the core.
        return TOOLCHAIN_MEMORY + max(
            CONVERTER_MEMORY + LAYER_MEMORY * config.num_layers, packed + ENGINE_MEMORY[runtime]
        )
    # The runner keeps the program beside its packed weights, and locks the tables in memory where it may; the head's
    # rows are the token table's.
    program = total(w for w in text_weights(config).values() if w.role != "head")
    return TOOLCHAIN_MEMORY + packed + program + total(embedding_weights(config).values()) + ENGINE_MEMORY[runtime]


def require(needs: Needs, destination: Path) -> str:
    """Refuse what cannot succeed; returns the needs and what there is in words.

    Raises:
        DiskError, ResourceError: too little disk or memory is free.
    """
    folder = next(p for p in (destination, *destination.absolute().parents) if p.exists())
    disk, memory = shutil.disk_usage(folder).free, memory_room()
    if needs.disk > disk:
        raise DiskError(
            f"compiling to {destination} needs {needs.disk / GB:.1f} GB of disk, {disk / GB:.1f} GB are free: "
            "free some or choose another --out"
        )
    if needs.memory > memory.nbytes:
        raise ResourceError(
            f"compiling needs {needs.memory / GB:.1f} GB of memory, {memory.nbytes / GB:.1f} GB are available "
            f"(bounded by {memory.bound}): close other programs, raise the limit or use a larger machine"
        )
    has = f"{memory.nbytes / GB:.1f} and {disk / GB:.1f} GB"
    return f"needs {needs.memory / GB:.1f} GB of memory and {needs.disk / GB:.1f} GB of disk; free: {has}"
