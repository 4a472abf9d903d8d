"""The memory ledger: what a bundle will take on the device, by part and by phase, before anybody loads it.

Figures follow from the bytes in the bundle, the shapes of the graph and what the engine itself was measured to take;
``g3n-bench`` measures the same phases. Everything resident counts, anonymous and file-backed, but for Python itself,
which no phone has.

The constants come from E2B and E4B, int4, context 4096, prefill 128 and 256, two threads, x86-64.
LiteRT-LM 0.18.1 on E2B: later loads took 0.371 + 1.679 GB (anonymous + file-backed), of which 0.039 are Python's; the
first one peaked at 0.549 more and wrote a cache of 1.537 GB for a core of 1.530.
ExecuTorch 1.5.1 keeps its packed weights in anonymous memory; while it packs one, the file's own bytes of it are
mapped beside, and the head is a single one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from g3n_compiler.checkpoint.config import TextConfig
from g3n_compiler.lower.backend import LoweredSubgraph
from g3n_compiler.modules.weights import text_weights
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.targets import TOWER_OF, Runtime

FLOAT = 4
ENGINE_BYTES = {"litert": 217_000_000, "executorch": 126_000_000}
"""Code and tables of the stock engine. LiteRT: tokenizer included, file-backed beside the packed core and anonymous
beside caches and activations."""
TOKENIZER_BYTES = 700
"""What a token takes in the tokenizer of ExecuTorch's runner: 184 MB for 262,400."""
PACKED_SHARE = 1.005
"""Size of XNNPACK's packed weights, which LiteRT maps instead of the core, as a part of the core's."""
DEVICE_SIZES_GB = (2, 3, 4, 6, 8, 12, 16, 24)
APP_SHARE = 0.5
"""Part of a phone's memory that one app may count on."""


def kv_layers(config: TextConfig, context: int) -> list[dict[str, Any]]:
    """Each KV-owning layer with its kind and the positions its cache holds."""
    return [
        {"layer": i, "kind": "sliding" if config.is_sliding(i) else "full", "length": config.cache_length(i, context)}
        for i in range(config.num_kv_layers)
    ]


def kv_bytes(config: TextConfig, context: int, ring_spare: int = 0) -> int:
    """Bytes of one copy of all KV caches in float32, with ``ring_spare`` positions more in those that are rings."""
    width = 2 * config.num_kv_heads * config.head_dim * FLOAT
    spare = {"sliding": ring_spare, "full": 0}
    layers = kv_layers(config, context)
    return sum(min(layer["length"] + spare[layer["kind"]], context) * width for layer in layers)


def activation_bytes(config: TextConfig, context: int, tokens: int) -> int:
    """Largest set of float32 activations alive at once for a chunk of ``tokens``."""
    streams = (2 * config.altup_num_inputs + 4) * config.hidden_size
    ffn = 3 * max(config.ffn_dims)
    ple = 2 * config.num_layers * config.ple_dim
    scores = 2 * config.num_heads * context
    return tokens * (streams + ffn + ple + scores) * FLOAT


def memory_ledger(
    config: TextConfig,
    recipe: Recipe,
    context: int,
    prefill: int,
    runtime: Runtime,
    subgraphs: Sequence[LoweredSubgraph],
) -> dict[str, Any]:
    """``parts`` (name, bytes, kind), ``peak`` bytes by phase and the least device memory, for one runtime.

    A tower is one part, loaded when the first image or sound comes; its phase is the encoding.
    LiteRT has ``first_run`` too: its ``peak``, and the ``cache`` of packed weights that it leaves on the disk.
    """
    own = [s for s in subgraphs if s.runtime == runtime]
    parts = [{"name": s.name, "bytes": s.nbytes, "kind": "mmapped"} for s in own if s.name not in TOWER_OF]
    towers: dict[str, int] = {}
    for s in own:
        if s.name in TOWER_OF:
            towers[TOWER_OF[s.name]] = towers.get(TOWER_OF[s.name], 0) + s.nbytes
    parts += [{"name": tower, "bytes": n, "kind": "on demand"} for tower, n in towers.items()]
    # ExecuTorch writes a chunk before its first token has looked back a whole window.
    caches = kv_bytes(config, context, prefill - 1 if runtime == "executorch" else 0)
    parts.append({"name": "kv_cache", "bytes": caches, "kind": "kv"})
    work = {"prefill": activation_bytes(config, context, prefill), "decode": activation_bytes(config, context, 1)}
    work["decode"] += config.vocab_size * FLOAT
    resident = {"engine": ENGINE_BYTES[runtime]}
    specs = text_weights(config).values()
    largest = max(recipe.scheme(spec).nbytes(spec.shape) for spec in specs)
    # Tables are touched by rows only; the packed core is read whole at every token.
    packed = int(sum(s.nbytes for s in own if s.name == "core") * PACKED_SHARE)
    if runtime == "executorch":
        # The program plans its memory once, for the longest chunk.
        work = dict.fromkeys(work, max(work.values()))
        packed = sum(recipe.scheme(spec).nbytes(spec.shape) for spec in specs)
        resident |= {"packed_weights": packed, "tokenizer": config.vocab_size * TOKENIZER_BYTES}
    parts += [{"name": name, "bytes": n, "kind": "resident"} for name, n in resident.items()]
    parts += [{"name": f"activations_{phase}", "bytes": n, "kind": "workspace"} for phase, n in work.items()]
    held = caches + sum(resident.values()) + (packed if runtime == "litert" else 0)
    peak = {"load": held, **{phase: held + n for phase, n in work.items()}}
    if runtime == "executorch":
        held += max(work.values())
        peak = {"load": held + largest, **dict.fromkeys(work, held)}
    peak |= {tower: held + n for tower, n in towers.items()}
    ledger: dict[str, Any] = {"parts": parts, "peak": peak}
    if runtime == "litert":
        # While it is packed, a weight lies in anonymous memory, which the engine keeps.
        ledger["first_run"] = {"peak": max(peak["prefill"] + largest, *peak.values()), "cache": packed}
    most = max(*peak.values(), ledger.get("first_run", {}).get("peak", 0))
    return ledger | {"least_device_ram": least_device_ram(most)}


def least_device_ram(peak: int) -> int:
    """The smallest common phone memory, in bytes, of which an app's share holds ``peak``."""
    for size in DEVICE_SIZES_GB:
        if peak <= APP_SHARE * (size << 30):
            return size << 30
    return int(peak / APP_SHARE)
