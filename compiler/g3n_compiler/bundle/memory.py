"""The memory ledger: what a bundle will take on the device, by part and by phase, before anybody loads it.

Figures follow from the bytes in the bundle and the shapes of the graph; ``g3n-bench`` measures the same phases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from g3n_compiler.checkpoint.config import TextConfig
from g3n_compiler.lower.backend import LoweredSubgraph
from g3n_compiler.targets import TOWER_OF, Runtime

FLOAT = 4
ENGINE_BYTES = {"litert": 90 << 20, "executorch": 60 << 20}
"""Code and tables of the stock engine itself, tokenizer included."""
KV_COPIES = {"litert": 2, "executorch": 1}
"""LiteRT-LM keeps an input and an output buffer for every cache; ExecuTorch updates in place."""
DEVICE_SIZES_GB = (2, 3, 4, 6, 8, 12, 16, 24)
APP_SHARE = 0.5
"""Part of a phone's memory that one app may count on."""


def kv_layers(config: TextConfig, context: int) -> list[dict[str, Any]]:
    """Each KV-owning layer with its kind and the positions its cache holds."""
    return [
        {"layer": i, "kind": "sliding" if config.is_sliding(i) else "full", "length": config.cache_length(i, context)}
        for i in range(config.num_kv_layers)
    ]


def kv_bytes(config: TextConfig, context: int) -> int:
    """Bytes of one copy of all KV caches in float32."""
    width = 2 * config.num_kv_heads * config.head_dim * FLOAT
    return sum(layer["length"] * width for layer in kv_layers(config, context))


def activation_bytes(config: TextConfig, context: int, tokens: int) -> int:
    """Largest set of float32 activations alive at once for a chunk of ``tokens``."""
    streams = (2 * config.altup_num_inputs + 4) * config.hidden_size
    ffn = 3 * max(config.ffn_dims)
    ple = 2 * config.num_layers * config.ple_dim
    scores = 2 * config.num_heads * context
    return tokens * (streams + ffn + ple + scores) * FLOAT


def memory_ledger(
    config: TextConfig, context: int, prefill: int, runtime: Runtime, subgraphs: Sequence[LoweredSubgraph]
) -> dict[str, Any]:
    """``parts`` (name, bytes, kind), ``peak`` bytes by phase and the least device memory, for one runtime.

    A tower is one part, loaded when the first image or sound comes; its phase is the encoding.
    """
    own = [s for s in subgraphs if s.runtime == runtime]
    parts = [{"name": s.name, "bytes": s.nbytes, "kind": "mmapped"} for s in own if s.name not in TOWER_OF]
    towers: dict[str, int] = {}
    for s in own:
        if s.name in TOWER_OF:
            towers[TOWER_OF[s.name]] = towers.get(TOWER_OF[s.name], 0) + s.nbytes
    parts += [{"name": tower, "bytes": n, "kind": "on demand"} for tower, n in towers.items()]
    caches = KV_COPIES[runtime] * kv_bytes(config, context)
    parts.append({"name": "kv_cache", "bytes": caches, "kind": "kv"})
    parts.append({"name": "engine", "bytes": ENGINE_BYTES[runtime], "kind": "resident"})
    work = {"prefill": activation_bytes(config, context, prefill), "decode": activation_bytes(config, context, 1)}
    work["decode"] += config.vocab_size * FLOAT
    parts += [{"name": f"activations_{phase}", "bytes": n, "kind": "workspace"} for phase, n in work.items()]
    # Tables are touched by rows only; the core is read whole at every token.
    core = sum(s.nbytes for s in own if s.name == "core")
    load = core + caches + ENGINE_BYTES[runtime]
    peak = {"load": load, **{phase: load + n for phase, n in work.items()}}
    peak |= {tower: load + n for tower, n in towers.items()}
    return {"parts": parts, "peak": peak, "least_device_ram": least_device_ram(max(peak.values()))}


def least_device_ram(peak: int) -> int:
    """The smallest common phone memory, in bytes, of which an app's share holds ``peak``."""
    for size in DEVICE_SIZES_GB:
        if peak <= APP_SHARE * (size << 30):
            return size << 30
    return int(peak / APP_SHARE)
