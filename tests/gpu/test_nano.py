"""Nano on the GPU delegate, through the command that compiles it and the stock engine that people run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.documented import ROOT
from tests.gpu.conftest import run

PICTURE = ROOT / "compiler" / "g3n_compiler" / "nano" / "heldout" / "seven.png"
QUESTIONS = {
    "Write as JSON: a person named Paul is 31 and lives in Rome.": '{"name": "Paul", "age": 31, "city": "Rome"}',
    "Reverse: stone river house": "Reversed: house river stone",
}


@pytest.fixture(scope="session")
def manifest(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / "manifest.json").read_text("utf-8"))


def test_what_ran_on_the_gpu_is_named(manifest: dict[str, Any]) -> None:
    placement = manifest["target"]["placement"]
    for name in ("core", "vision_encoder"):
        assert placement[name]["delegate"] == placement[name]["verified_by"] == "gpu"
        assert placement[name]["verified_on"]
    checks = [c for c in manifest["parity"]["checks"] if c["name"].startswith("GPU: ")]
    assert {c["subgraph"] for c in checks} == {"core", "vision_encoder"}
    assert any("prefilled" in c["name"] for c in checks) and any("decoded" in c["name"] for c in checks)
    (layers,) = [c for c in checks if "each layer alone" in c["name"]]
    assert [part["name"] for part in layers["parts"]] == [*(f"layer {i}" for i in range(10)), "head"]
    assert sum("stock engine" in c["name"] for c in checks) == 2


def test_nothing_is_said_to_be_unproven(compiled: subprocess.CompletedProcess[str], bundle: Path) -> None:
    assert "not run" not in compiled.stdout
    assert "was not run" not in (bundle / "report.html").read_text("utf-8")


@pytest.mark.parametrize("launch", ["first", "second", "third"])
def test_a_launch_answers_rightly(launch: str, bundle: Path, driver: dict[str, str]) -> None:
    """A prompt that fills a prefill signature, then one that does not; each launch in a process of its own."""
    for question, answer in QUESTIONS.items():
        command = ["g3n-run", str(bundle), "--backend", "gpu", "--temperature", "0", "--expect", answer, question]
        result = run(command, bundle.parent, driver)
        assert result.returncode == 0, (launch, result.stdout, result.stderr)


def test_a_picture_is_read(bundle: Path, driver: dict[str, str]) -> None:
    command = ["g3n-run", str(bundle), "--backend", "gpu", "--temperature", "0", "--image", str(PICTURE)]
    result = run([*command, "--expect", "7", "What digit is this?"], bundle.parent, driver)
    assert result.returncode == 0, (result.stdout, result.stderr)


def test_nothing_of_the_gpu_is_kept_between_launches(bundle: Path, driver: dict[str, str], tmp_path: Path) -> None:
    """The engine reads int4 weights back from its own cache as garbage, so it is given none."""
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    question = next(iter(QUESTIONS))
    result = run(["g3n-run", str(bundle), "--backend", "gpu", "--max-tokens", "2", question], tmp_path, driver | cache)
    assert result.returncode == 0, result.stderr
    assert not [path for path in tmp_path.rglob("*") if "mldrift" in path.name or path.suffix == ".bin"]
    assert sorted(path.name for path in bundle.iterdir()) == sorted(
        ["manifest.json", "report.html", *(f.name for f in bundle.glob("*.litertlm"))]
    )
