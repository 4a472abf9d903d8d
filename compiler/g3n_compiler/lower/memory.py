"""What every memory ledger consists of: the caches, the activations and the parts that are in the bundle.

A ledger predicts how much memory a bundle takes on a device, by part and by phase. The figures follow from the bytes in
the bundle, the shapes of the graph and the measured memory of the engine itself; ``g3n-bench`` measures the same
phases. All resident memory counts, anonymous and file-backed, except Python itself, which no phone runs. Each backend
has its own ledger, in ``memory.py`` of its folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from g3n_compiler.lower.artifact import LoweredSubgraph
from g3n_compiler.lower.subgraphs import TOWER_OF
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.models.shape import TextShape

FLOAT = 4
DEVICE_SIZES_GB = (2, 3, 4, 6, 8, 12, 16, 24)
APP_SHARE = 0.5
"""Share of a phone's memory that one app can count on."""


def kv_layers(shape: TextShape, context: int) -> list[dict[str, Any]]:
    """Each KV-owning layer with its kind and the number of positions in its cache."""
    return [
        {"layer": i, "kind": "sliding" if shape.is_sliding(i) else "full", "length": shape.cache_length(i, context)}
        for i in range(shape.num_kv_layers)
    ]


def kv_bytes(shape: TextShape, context: int, ring_spare: int = 0) -> int:
    """Bytes of one copy of all KV caches in float32; ring caches hold ``ring_spare`` more positions."""
    spare = {"sliding": ring_spare, "full": 0}
    return sum(
        2 * FLOAT * shape.kv_width(layer["layer"]) * min(layer["length"] + spare[layer["kind"]], context)
        for layer in kv_layers(shape, context)
    )


def activation_bytes(config: TextConfig, context: int, tokens: int) -> int:
    """Bytes of the largest set of float32 activations that are alive at once for a chunk of ``tokens``."""
    streams = (2 * config.altup_num_inputs + 4) * config.hidden_size
    ffn = 3 * max(config.ffn_dims)
    ple = 2 * config.num_layers * config.ple_dim
    scores = 2 * config.num_heads * context
    return tokens * (streams + ffn + ple + scores) * FLOAT


def phase_activations(config: TextConfig, context: int, prefill: int) -> dict[str, int]:
    """Bytes of activations while a prompt is read in chunks of ``prefill`` tokens, and while an answer is decoded."""
    work = {"prefill": activation_bytes(config, context, prefill), "decode": activation_bytes(config, context, 1)}
    work["decode"] += config.vocab_size * FLOAT
    return work


def mapped_parts(subgraphs: Sequence[LoweredSubgraph]) -> list[dict[str, Any]]:
    """The subgraphs that are mapped from the bundle's files when it is loaded."""
    return [{"name": s.name, "bytes": s.nbytes, "kind": "mmapped"} for s in subgraphs if s.name not in TOWER_OF]


def tower_bytes(subgraphs: Sequence[LoweredSubgraph]) -> dict[str, int]:
    """Bytes of each tower, which is loaded as a whole with the first image or sound."""
    towers: dict[str, int] = {}
    for s in subgraphs:
        if s.name in TOWER_OF:
            towers[TOWER_OF[s.name]] = towers.get(TOWER_OF[s.name], 0) + s.nbytes
    return towers


def parts(
    mapped: Sequence[dict[str, Any]],
    towers: dict[str, int],
    caches: int,
    resident: dict[str, int],
    work: dict[str, int],
) -> list[dict[str, Any]]:
    """A ledger's list of parts, each with its name, its bytes and its kind."""
    named: dict[str, dict[str, int]] = {
        "on demand": towers,
        "kv": {"kv_cache": caches},
        "resident": resident,
        "workspace": {f"activations_{phase}": n for phase, n in work.items()},
    }
    rest = [{"name": name, "bytes": n, "kind": kind} for kind, group in named.items() for name, n in group.items()]
    return [*mapped, *rest]


def peaks(phases: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Bytes of each phase."""
    return {phase: sum(held.values()) for phase, held in phases.items()}


def least_device_ram(peak: int) -> int:
    """The smallest common phone memory, in bytes, in which an app's share holds ``peak``."""
    for size in DEVICE_SIZES_GB:
        if peak <= APP_SHARE * (size << 30):
            return size << 30
    return int(peak / APP_SHARE)
