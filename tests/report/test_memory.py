"""The memory plot: its bars are the ledgers' own, whole."""

from __future__ import annotations

from typing import Any

import pytest

from g3n_compiler.lower.artifact import LoweredSubgraph
from g3n_compiler.lower.executorch.memory import memory_ledger as executorch_ledger
from g3n_compiler.lower.litert.memory import memory_ledger as litert_ledger
from g3n_compiler.lower.subgraphs import Subgraph
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.report.memory import LABELS, ON_GPU, PHASES, memory
from tests.conftest import TinyModel

BYTES: dict[Subgraph, int] = {
    "core": 5_000_000,
    "token_embedding": 300_000,
    "per_layer_embedding": 200_000,
    "vision_encoder": 900_000,
    "vision_adapter": 50_000,
    "audio_encoder": 70_000_000,
}
LEDGERS = {"litert": litert_ledger, "executorch": executorch_ledger}


@pytest.fixture(params=LEDGERS)
def ledger(request: pytest.FixtureRequest, tiny: TinyModel) -> tuple[str, dict[str, Any]]:
    runtime, make = request.param, LEDGERS[request.param]
    subgraphs = [LoweredSubgraph(name, runtime, "", "", n, (), None) for name, n in BYTES.items()]
    return runtime, make(gemma3n_config(tiny.open().text), RECIPES["int4"], 64, 16, subgraphs)


def test_every_bar_ends_at_its_peak(ledger: tuple[str, dict[str, Any]]) -> None:
    runtime, made = ledger
    bars = {bar.phase: bar for bar in memory({"memory": {runtime: made}}).bars[runtime]}
    peaks = dict(made["peak"])
    if "first_run" in made:
        peaks["first_run"] = made["first_run"]["peak"]
        peaks[ON_GPU] = sum(made["phases"][ON_GPU].values())
    assert {PHASES[phase]: peak for phase, peak in peaks.items()} == {
        phase: sum(part.nbytes for part in bar.parts) for phase, bar in bars.items()
    }
    longest = max(bars.values(), key=lambda bar: bar.total)
    assert sum(part.width for part in longest.parts) == pytest.approx(100)


def test_every_part_of_the_ledger_is_drawn(ledger: tuple[str, dict[str, Any]]) -> None:
    runtime, made = ledger
    drawn = {
        (part.label, part.nbytes) for bar in memory({"memory": {runtime: made}}).bars[runtime] for part in bar.parts
    }
    for part in made["parts"]:
        if part["kind"] == "mmapped":
            continue  # the core counts as packed weights, and of tables only rows are read
        name = "activations" if part["name"].startswith("activations_") else part["name"]
        assert (LABELS[name], part["bytes"]) in drawn
    packed = dict(drawn)["packed weights"]
    assert packed == made.get("first_run", {"cache": packed})["cache"] > 0


def test_an_older_manifest_has_bars_in_one_piece() -> None:
    ledger = {"parts": [], "peak": {"load": 5, "prefill": 9, "decode": 6}}
    bars = memory({"memory": {"litert": ledger}}).bars["litert"]
    assert [bar.total for bar in bars] == [5, 9, 6] and all(len(bar.parts) == 1 for bar in bars)
