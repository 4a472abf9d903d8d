"""The sizes of an elastic model on the GPU delegate, in our loop: every signature computes what it does on the CPU."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from g3n_compiler.lower.isolated import isolated
from g3n_runtime.litert.model import LiteRtParts
from g3n_runtime.litert.vulkan import LOADER
from tests.elastic.conftest import FULL, SMALL, Nested
from tests.gpu.conftest import driver

__all__ = ["driver"]
IDS = [2, *range(300, 340)]
WINDOW_PASSED = 30
"""Tokens of prompt: more than the sliding window, so that rings have turned."""


def computed(parts: LiteRtParts, device: str, kit: dict[str, str]) -> tuple[dict[str, np.ndarray], list[int], bool]:
    """Logits of every signature after the same tokens, what is said with drafts, and whether a driver was loaded."""
    os.environ.update(kit)
    from g3n_runtime.litert.elastic import ElasticModel, ElasticText
    from g3n_runtime.litert.speculation import SpeculativeDecoder

    model = ElasticModel(parts, [FULL, SMALL], 1, device=device)  # type: ignore[arg-type]
    found: dict[str, np.ndarray] = {}
    for size in (FULL, SMALL):
        text = ElasticText(model)
        text.prefill(IDS[:WINDOW_PASSED], size)
        found[size] = text.decode(IDS[WINDOW_PASSED], size)
    found["verified"] = text.verify(IDS[WINDOW_PASSED + 1 :][: model.verify_length])
    text.keep(1)
    found["after some were taken back"] = text.decode(IDS[-1], SMALL)
    text = ElasticText(model)
    text.prefill(IDS[:-1])
    drafted = list(SpeculativeDecoder(text, SMALL).generate(IDS[-1], 8))
    return found, drafted, LOADER in Path("/proc/self/maps").read_text("utf-8")


def test_each_size_and_drafts_as_on_the_cpu(nested: Nested, driver: dict[str, str]) -> None:
    parts = nested.parts("fp32")
    want, said, without = isolated(computed, parts, "cpu", driver)
    got, same, with_driver = isolated(computed, parts, "gpu", driver)
    assert with_driver and not without
    for name, logits in want.items():
        assert np.abs(got[name] - logits).max() <= 1e-3 * np.abs(logits).max(), name
    assert same == said
