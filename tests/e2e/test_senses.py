"""Nano's pictures and sounds end to end: a bundle with towers answers held-out questions in both stock engines."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

from g3n_compiler.lower.litert.container import extract
from g3n_compiler.nano import heldout_senses_dir
from g3n_compiler.verify.checks import EXACT, relative_error
from g3n_runtime.bundle import open_bundle
from g3n_runtime.chat import GREEDY, Attachments
from g3n_runtime.engines import open_engine
from g3n_runtime.executorch.audio import ExecuTorchAudio
from g3n_runtime.litert.audio import LiteRtAudio
from g3n_runtime.media.mel import HOP, OVERLAP, RATE
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


def test_both_runtimes_hear_sounds_of_any_length(nano_int4: Path, tmp_path: Path) -> None:
    """LiteRT-LM by its own engine, unmodified, 30 s at a time; ExecuTorch in steps of 160 ms.

    Sounds follow each other in a turn and in turns, and one ends where a call of the encoder does.
    """
    short = heldout_senses_dir() / "speech" / "05.ogg"
    sounds = {
        "long": long_sound(90),
        "cut": long_sound(30),
        "full": long_sound(31)[: (188 * 16 + OVERLAP) * HOP],
        "silence": np.zeros(40 * RATE, np.float32),
    }
    files = {"short": short} | {name: tmp_path / f"{name}.wav" for name in sounds}
    for name, sound in sounds.items():
        soundfile.write(files[name], sound, RATE, subtype="FLOAT")
    conversations = (("long", "short"), ("cut",), ("full short",), ("short", "long"), ("silence",))
    bundle = open_bundle(nano_int4)
    said: dict[str, list[str]] = {runtime: [] for runtime in bundle.runtimes}
    for runtime, answers in said.items():
        engine = open_engine(bundle, runtime)
        for turns in conversations:
            for turn in turns:
                attached = Attachments(audio=tuple(files[name] for name in turn.split()))
                answers.append("".join(engine.send("Transcribe.", GREEDY, 16, attached)))
            engine.reset()
        engine.close()
    assert said["litert"] == said["executorch"] and all(said["litert"])
    long, _, cut, _, heard, after, _ = said["litert"]
    assert heard == "zero red" and after == long
    assert long != cut, "what follows the first 30 s was not heard"


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
