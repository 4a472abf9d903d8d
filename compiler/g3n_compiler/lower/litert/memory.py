"""How much memory a LiteRT bundle takes on a device, and how much compiling one takes here.

The ledger's constants were measured with E2B and E4B, int4, context 4096, prefill 128 and 256, two threads, x86-64.
With LiteRT-LM 0.18.1, E2B took 0.371 + 1.679 GB (anonymous + file-backed) on later loads, of which 0.039 GB are
Python's; the first load peaked at 0.549 GB more and wrote a cache of 1.537 GB for a core of 1.530 GB.

On a GPU, as ``benchmarks/gpu_meter.py`` counts it over a software driver, the engine gives the GPU each
weight in the bytes that the file has, each cache twice, since a call reads one and writes the other, and each signature
activations of its own. No copy of the weights stays in the CPU's memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from g3n_compiler.lower.artifact import LoweredSubgraph
from g3n_compiler.lower.memory import (
    FLOAT,
    activation_bytes,
    kv_bytes,
    least_device_ram,
    mapped_parts,
    parts,
    peaks,
    phase_activations,
    tower_bytes,
)
from g3n_compiler.lower.signatures.lora import lora_inputs
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.models.registry import text_weights
from g3n_compiler.quantize.recipe import Recipe

ENGINE_BYTES = 217_000_000
"""Code and tables of the stock engine, including its tokenizer: file-backed bytes beyond the packed core, and anonymous
bytes beyond caches and activations."""
PACKED_SHARE = 1.005
"""Size of XNNPACK's packed weights, which LiteRT maps instead of the core, relative to the core's size."""
CONVERTER_MEMORY = 1_000_000_000
LAYER_MEMORY = 30_000_000
"""Memory of the process that converts the graph, and what each layer adds to it: 1.7 GB were measured for E2B's 30
layers."""
VERIFY_MEMORY = 1_250_000_000
"""Caches, activations and touched rows at a context of 4096, beyond the packed core, while the whole graph is compared
and the engine generates. Compiles of E2B and E4B at int4 took 3.5 and 4.5 GB in total."""


def memory_ledger(
    config: TextConfig,
    recipe: Recipe,
    context: int,
    prefill: int,
    subgraphs: Sequence[LoweredSubgraph],
    lora_rank: int = 0,
) -> dict[str, Any]:
    """``parts`` (name, bytes, kind), ``peak`` bytes by phase, what ``phases`` hold, and the least device memory.

    A tower is one part, loaded with the first image or sound; its phase is the encoding. ``first_run`` has the ``peak``
    of the first load and the size of the ``cache`` of packed weights that it leaves on disk. The phase ``gpu`` is text
    with the decoder on a GPU, whose memory is the CPU's too on a phone; it is no part of the peaks.

    Args:
        lora_rank: of the adapters that the engine can add. One conversation's is counted, in the engine's memory and in
            the file that it maps; each further conversation keeps as much until the engine is closed.
    """
    towers, caches = tower_bytes(subgraphs), kv_bytes(config, context)
    work = phase_activations(config, context, prefill)
    # Of tables only single rows are read; the packed core is read whole for every token.
    packed = int(sum(s.nbytes for s in subgraphs if s.name == "core") * PACKED_SHARE)
    held = {"engine": ENGINE_BYTES, "packed_weights": packed, "kv_cache": caches}
    resident = {"engine": ENGINE_BYTES}
    if adapter := 2 * _adapter_bytes(config, lora_rank):
        held["adapter"] = resident["adapter"] = adapter
    phases = {"load": held, **{phase: held | {"activations": n} for phase, n in work.items()}}
    phases |= {tower: held | {tower: n} for tower, n in towers.items()}
    peak = peaks(phases)
    # A weight is in anonymous memory while it is being packed, and the engine keeps that memory.
    largest = max(recipe.scheme(spec).nbytes(spec.shape) for spec in text_weights(config).values())
    first = max(phases["prefill"] | {"largest_weight": largest}, *phases.values(), key=lambda held: sum(held.values()))
    return {
        "parts": parts(mapped_parts(subgraphs), towers, caches, resident, work),
        "peak": peak,
        "first_run": {"peak": sum(first.values()), "cache": packed},
        "phases": phases | {"first_run": first, "gpu": _on_gpu(config, context, prefill, subgraphs)},
        "least_device_ram": least_device_ram(sum(first.values())),
    }


def _adapter_bytes(config: TextConfig, rank: int) -> int:
    inputs = lora_inputs(text_weights(config), rank).values()
    return sum(FLOAT * math.prod(shape) for both in inputs for shape in both.shapes.values())


def _on_gpu(config: TextConfig, context: int, prefill: int, subgraphs: Sequence[LoweredSubgraph]) -> dict[str, int]:
    """What is in memory, of the GPU and of the CPU, when every signature of the decoder has run on the GPU."""
    core = [s for s in subgraphs if s.name == "core"]
    matches = [re.fullmatch(r"prefill_(\d+)", name) for s in core for name in s.signatures]
    lengths = [int(found[1]) for found in matches if found] or [prefill]
    work = phase_activations(config, context, prefill)["decode"]
    return {
        "engine": ENGINE_BYTES,
        "gpu_weights": sum(s.nbytes for s in core),
        "gpu_kv_cache": 2 * kv_bytes(config, context),
        "gpu_activations": work + sum(activation_bytes(config, context, length) for length in lengths),
    }


def compile_memory(config: TextConfig, recipe: Recipe) -> int:
    """Peak bytes of a compile beyond the toolchain itself: converting the graph, or comparing the packed model."""
    packed = sum(recipe.scheme(spec).nbytes(spec.shape) for spec in text_weights(config).values())
    # Packed weights are mapped instead of the core.
    return max(CONVERTER_MEMORY + LAYER_MEMORY * config.num_layers, packed + VERIFY_MEMORY)
