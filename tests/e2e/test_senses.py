"""Nano's eyes and ears end to end: a bundle with towers answers held-out questions in both stock engines."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from g3n_runtime.bundle import open_bundle

DIGITS, SCENES, CLIPS = 8, 4, 6
ALL = DIGITS + SCENES + CLIPS
ROW = re.compile(
    r"^\| int4 \| (litert|executorch) \| ([\d.]+)% \(.*?\) \| ([\d.]+)% \(.*?\) \| ([\d.]+)% \(.*?\) "
    r"\| (\d+) of (\d+) \|$",
    re.MULTILINE,
)


def test_manifest_names_the_towers(nano_int4: Path) -> None:
    manifest = open_bundle(nano_int4).manifest
    assert manifest["model"]["modalities"] == ["text", "vision", "audio"]
    assert manifest["parity"]["passed"]


def test_answers_are_those_of_transformers(nano_int4: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "senses.py"
    counts = ["--digits", str(DIGITS), "--scenes", str(SCENES), "--clips", str(CLIPS)]
    result = subprocess.run(
        [sys.executable, str(script), str(nano_int4), *counts], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    rows = ROW.findall(result.stdout)
    assert [row[0] for row in rows] == ["litert", "executorch"], result.stdout
    for _, digits, _, word_errors, same, asked in rows:
        assert float(digits) >= 75 and float(word_errors) <= 50
        # int4 may turn what was nearly a draw
        assert int(asked) == ALL and int(same) >= ALL - 2
