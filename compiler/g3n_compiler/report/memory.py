"""The report's memory plot: what is in memory at the peak of each phase, by part, as the ledger has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ON_GPU = "gpu"
"""The phase of a ledger for text on a GPU."""
LABELS = {
    "engine": "engine",
    "packed_weights": "packed weights",
    "tokenizer": "tokenizer",
    "kv_cache": "KV caches",
    "adapter": "adapter of a conversation",
    "activations": "activations",
    "largest_weight": "largest weight, while it is packed",
    "vision": "vision tower",
    "audio": "audio tower",
    "gpu_weights": "weights on the GPU",
    "gpu_kv_cache": "KV caches on the GPU",
    "gpu_activations": "activations on the GPU",
}
PHASES = {
    "load": "load",
    "prefill": "read the prompt",
    "decode": "write the answer",
    "vision": "read a picture",
    "audio": "hear a sound",
    "first_run": "first run",
    ON_GPU: "text on a GPU",
}


@dataclass(frozen=True)
class Part:
    """A segment of a bar: its width in percent of the longest bar, and the number of its colour."""

    label: str
    nbytes: int
    width: float
    colour: int


@dataclass(frozen=True)
class Bar:
    """One phase of one runtime; its ``parts`` add up to ``total``, the ledger's peak."""

    phase: str
    parts: list[Part]
    total: int


@dataclass(frozen=True)
class Memory:
    """All bars by runtime, on one scale, and the colour of each label."""

    bars: dict[str, list[Bar]]
    colours: dict[str, int]


def memory(manifest: dict[str, Any]) -> Memory:
    """The ledgers of all runtimes as bars."""
    phases = {runtime: _phases(ledger) for runtime, ledger in manifest["memory"].items()}
    names = {name for own in phases.values() for held in own.values() for name in held}
    # In the order of LABELS, so that a part has the same colour on every page.
    known = [*LABELS, *sorted(names - set(LABELS))]
    colours = {_label(name): i for i, name in enumerate(known) if name in names}
    longest = max((sum(held.values()) for own in phases.values() for held in own.values()), default=0) or 1
    bars = {}
    for runtime, own in phases.items():
        bars[runtime] = [
            Bar(
                PHASES.get(phase, phase),
                [
                    Part(_label(name), n, 100 * n / longest, colours[_label(name)])
                    for name, n in sorted(held.items(), key=lambda item: known.index(item[0]))
                ],
                sum(held.values()),
            )
            for phase, held in own.items()
        ]
    return Memory(bars, colours)


def _phases(ledger: dict[str, Any]) -> dict[str, dict[str, int]]:
    """What each phase holds; of an older manifest, which does not say it, the peak in one piece."""
    phases: dict[str, dict[str, int]] | None = ledger.get("phases")
    return phases or {phase: {"everything": peak} for phase, peak in ledger["peak"].items()}


def _label(name: str) -> str:
    return LABELS.get(name, name)
