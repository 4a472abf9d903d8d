"""Nano's bundles on aarch64, emulated, under the official aarch64 libraries of both runtimes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from android_app.tests.conftest import BIN, folder, run
from g3n_compiler.verify.golden import PROMPTS

ENTRIES = {("litert", "signatures"), ("executorch", "text_decoder"), ("executorch", "forward")}


def checks(bundle: Path) -> list[dict[str, Any]]:
    kit = folder("G3N_ARM64", "build/arm64")
    out = run(BIN / "g3n-verify", bundle, "--arch", "arm64", "--kit", kit, "--format", "json")
    return json.loads(out.strip().splitlines()[-1])["checks"]


@pytest.mark.parametrize("bundle_name", ["nano_fp32", "nano_int4"])
def test_every_subgraph_gives_on_arm_what_it_gives_here(bundle_name: str, request: pytest.FixtureRequest) -> None:
    found = checks(request.getfixturevalue(bundle_name))
    assert {(c["runtime"], c["name"].split(":")[0]) for c in found} == ENTRIES
    assert {c["subgraph"] for c in found} == {"core", "token_embedding", "per_layer_embedding"}
    assert all(c["passed"] for c in found)
    # The answer to the first prompt can be seen to be right, and the comparison says that Arm gives the same tokens.
    texts = json.loads((request.getfixturevalue(bundle_name) / "manifest.json").read_text("utf-8"))["parity"]["texts"]
    assert {t["text"] for t in texts if t["prompt"] == PROMPTS[0]} == {"Reversed: house river stone"}
    if bundle_name == "nano_fp32":
        greedy = [c for c in found if c["metric"] == "margin at first difference"]
        assert len(greedy) == len(ENTRIES) and all(c["note"] == "24 of 24 the same" for c in greedy)
