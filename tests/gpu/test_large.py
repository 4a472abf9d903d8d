"""A model that is too large to be run whole, on the GPU delegate: nano, taken for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from g3n_compiler.cli.parity import compare
from g3n_compiler.verify import reference
from g3n_compiler.verify.accelerator import NEAR
from g3n_runtime.bundle import open_bundle

KINDS = "layers 0, 3, 4, 5, 9 of 10, one of each kind, and the head, each alone"


def test_of_a_large_model_a_layer_of_each_kind_runs_on_the_gpu(
    bundle: Path, driver: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "SMALL_PARAMETERS", 0)
    for name, value in driver.items():
        monkeypatch.setenv(name, value)
    told: list[str] = []
    parity = compare(open_bundle(bundle), None, None, None, "gpu", told.append)
    assert parity.passed, [c for c in parity.checks if not c.passed]
    assert parity.ran_on["core"].part == KINDS and any(KINDS in line for line in told)
    assert parity.ran_on["vision_encoder"].part is None
    checks = [c for c in parity.checks if c.name.startswith("GPU: ") and c.subgraph == "core"]
    (layers,) = checks
    assert [name for name, _ in layers.parts] == ["layer 0", "layer 3", "layer 4", "layer 5", "layer 9", "head"]
    assert layers.limit == NEAR and "activations in float" in layers.reference
