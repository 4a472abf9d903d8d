"""How much memory an ExecuTorch bundle takes on a device, and how much compiling one takes here.

The ledger's constants were measured with E2B and E4B, int4, context 4096, prefill 128 and 256, two threads, x86-64.
ExecuTorch 1.5.1 keeps its packed weights in anonymous memory. While it packs a weight, the file's bytes of it are
mapped as well; the head is a single weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from g3n_compiler.lower.artifact import LoweredSubgraph
from g3n_compiler.lower.memory import (
    kv_bytes,
    least_device_ram,
    mapped_parts,
    parts,
    peaks,
    phase_activations,
    tower_bytes,
)
from g3n_compiler.models.embedding_tables import embedding_weights
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.models.registry import text_weights
from g3n_compiler.quantize.recipe import Recipe

ENGINE_BYTES = 126_000_000
"""Code and tables of the runtime."""
TOKENIZER_BYTES = 700
"""Bytes per token in the stock runner's tokenizer: 184 MB for 262,400."""
VERIFY_MEMORY = 800_000_000
"""Caches, activations and touched rows at a context of 4096, beyond the packed core, while the whole graph is compared
and the engine generates. Compiles of E2B and E4B at int4 took 5.4 and 6.7 GB in total."""


def memory_ledger(
    config: TextConfig, recipe: Recipe, context: int, prefill: int, subgraphs: Sequence[LoweredSubgraph]
) -> dict[str, Any]:
    """``parts`` (name, bytes, kind), ``peak`` bytes by phase, what ``phases`` hold, and the least device memory.

    A tower is one part, loaded with the first image or sound; its phase is the encoding.
    """
    towers = tower_bytes(subgraphs)
    # A chunk is written before its first token has attended to its whole window.
    caches = kv_bytes(config, context, prefill - 1)
    # The program's memory is planned once, for the longest chunk.
    work = phase_activations(config, context, prefill)
    work = dict.fromkeys(work, max(work.values()))
    weights = [recipe.scheme(spec).nbytes(spec.shape) for spec in text_weights(config).values()]
    tokenizer = config.vocab_size * TOKENIZER_BYTES
    resident = {"engine": ENGINE_BYTES, "packed_weights": sum(weights), "tokenizer": tokenizer}
    held = resident | {"kv_cache": caches, "activations": max(work.values())}
    phases = {"load": held | {"largest_weight": max(weights)}, **dict.fromkeys(work, held)}
    phases |= {tower: held | {tower: n} for tower, n in towers.items()}
    peak = peaks(phases)
    return {
        "parts": parts(mapped_parts(subgraphs), towers, caches, resident, work),
        "peak": peak,
        "phases": phases,
        "least_device_ram": least_device_ram(max(peak.values())),
    }


def compile_memory(config: TextConfig, recipe: Recipe) -> int:
    """Peak bytes of a compile beyond the toolchain itself, reached while the stock runner generates.

    The runner keeps the program as well as its packed weights, and locks the tables in memory if it may; the head's
    rows are those of the token table.
    """
    weights = text_weights(config).values()
    packed, program = (
        sum(recipe.scheme(w).nbytes(w.shape) for w in chosen)
        for chosen in (weights, [w for w in weights if w.role != "head"])
    )
    tables = sum(recipe.scheme(w).nbytes(w.shape) for w in embedding_weights(config).values())
    return packed + program + tables + VERIFY_MEMORY
