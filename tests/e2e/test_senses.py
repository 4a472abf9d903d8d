"""Nano's eyes and ears end to end: a bundle with towers answers held-out questions in both stock engines."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from g3n_runtime.bundle import open_bundle
from tests.e2e.conftest import compiled

COMMAND = "g3n-compile --size nano --runtime both --quant int8 --context 1024"
DIGITS, SCENES, CLIPS = 8, 4, 6
ALL = DIGITS + SCENES + CLIPS
ROW = re.compile(
    r"^\| int8 \| (litert|executorch) \| ([\d.]+)% \| ([\d.]+)% \| ([\d.]+)% \| (\d+) of (\d+) \|$", re.MULTILINE
)


@pytest.fixture(scope="module")
def nano_senses(workspace: Path) -> Path:
    return compiled(workspace, COMMAND, "exported/nano-host-int8")


def test_manifest_names_the_towers(nano_senses: Path) -> None:
    manifest = open_bundle(nano_senses).manifest
    assert manifest["model"]["modalities"] == ["text", "vision", "audio"]
    assert manifest["parity"]["passed"]


def test_answers_are_those_of_transformers(nano_senses: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "senses.py"
    counts = ["--digits", str(DIGITS), "--scenes", str(SCENES), "--clips", str(CLIPS)]
    result = subprocess.run(
        [sys.executable, str(script), str(nano_senses), *counts], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    rows = ROW.findall(result.stdout)
    assert [row[0] for row in rows] == ["litert", "executorch"], result.stdout
    for _, digits, _, word_errors, same, asked in rows:
        assert float(digits) >= 75 and float(word_errors) <= 50
        # int8 may turn what was nearly a draw
        assert int(asked) == ALL and int(same) >= ALL - 2
