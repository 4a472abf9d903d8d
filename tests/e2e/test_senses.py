"""Nano's pictures and sounds end to end: a bundle with towers answers held-out questions in both stock engines."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from g3n_compiler.nano import heldout_senses_dir
from g3n_compiler.verify.checks import relative_error
from g3n_runtime.bundle import open_bundle
from g3n_runtime.executorch.audio import ExecuTorchAudio
from g3n_runtime.litert.audio import open_stream
from g3n_runtime.media.sound import read_clip

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


def test_a_sound_in_pieces_gives_the_tokens_that_executorch_gives(nano_int4: Path) -> None:
    """The streaming encoder that ``docs/apps.md`` names, which the stock engine does not run."""
    bundle = open_bundle(nano_int4)
    spoken = read_clip(heldout_senses_dir() / "speech" / "05.ogg")
    pieces = np.array_split(spoken, 7)
    encoder = open_stream(bundle)
    tokens = np.stack(list(encoder(pieces)))
    expected = np.stack(list(ExecuTorchAudio(bundle.open_file("executorch_audio")).tokens(pieces)))
    assert tokens.shape == expected.shape and len(tokens) > 5
    assert relative_error(tokens, expected) < 0.05  # int8, and two engines' kernels
    assert relative_error(np.stack(list(encoder(pieces))), tokens) == 0  # nothing is left of the first sound


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
