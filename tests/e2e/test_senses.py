"""Nano's pictures and sounds end to end: a bundle with towers answers held-out questions in both stock engines."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from g3n_compiler.lower.litert.container import extract
from g3n_compiler.verify.checks import EXACT, relative_error
from g3n_runtime.bundle import open_bundle
from g3n_runtime.chat import GREEDY, Attachments
from g3n_runtime.engines import open_engine
from g3n_runtime.executorch.audio import ExecuTorchAudio
from g3n_runtime.litert.audio import LiteRtAudio
from g3n_runtime.media.mel import RATE
from nano_training.heldout_senses import long_sound

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


@pytest.fixture(scope="module")
def ninety_seconds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "90.wav"
    soundfile.write(path, long_sound(90), RATE, subtype="FLOAT")
    return path


def test_the_first_thirty_of_ninety_seconds_are_the_clips(nano_int4: Path, tmp_path: Path) -> None:
    """But for the token that the clip's end cuts short; and all of them are those of the other runtime's own form."""
    bundle = open_bundle(nano_int4)
    kinds = ("audio_encoder_hw", "audio_adapter")
    for kind in kinds:
        extract(bundle.file("litertlm"), kind, tmp_path / kind)
    audio, sound = LiteRtAudio(*(tmp_path / kind for kind in kinds)), long_sound(90)
    tokens, clip = audio(sound), audio(sound[: 30 * RATE])
    assert len(clip) == 188 and relative_error(tokens[:187], clip[:187]) < EXACT
    assert relative_error(tokens[187:188], clip[187:]) > EXACT
    expected = ExecuTorchAudio(bundle.open_file("executorch_audio")).stream(sound)
    assert len(tokens) == len(expected) == 563
    assert relative_error(tokens, expected) < 0.05  # int8, and two engines' kernels


def test_both_runtimes_hear_the_whole_of_ninety_seconds(nano_int4: Path, ninety_seconds: Path, tmp_path: Path) -> None:
    """LiteRT-LM by its own engine, unmodified; ExecuTorch in steps of 160 ms."""
    bundle, cut = open_bundle(nano_int4), tmp_path / "30.wav"
    soundfile.write(cut, long_sound(30), RATE, subtype="FLOAT")
    said = {}
    for runtime in bundle.runtimes:
        engine = open_engine(bundle, runtime)
        for path in (ninety_seconds, cut):
            said[runtime, path] = "".join(engine.send("Transcribe.", GREEDY, 24, Attachments(audio=(path,))))
            engine.reset()
        engine.close()
    for path in (ninety_seconds, cut):
        assert said["litert", path] == said["executorch", path] != ""
    assert said["litert", ninety_seconds] != said["litert", cut], "the rest was not heard"


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
