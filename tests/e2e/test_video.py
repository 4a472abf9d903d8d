"""Nano sees the frames of a video in their order and hears its sound, in both stock engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from g3n_compiler.lower.registry import BACKENDS
from g3n_compiler.lower.subgraphs import Runtime
from g3n_runtime.bundle import open_bundle
from g3n_runtime.chat import GREEDY, Attachments
from g3n_runtime.engines import open_engine
from g3n_runtime.errors import MediaError
from g3n_runtime.video_turn import Room, read_for
from nano_training.heldout_senses import Question, questions
from tests.e2e.conftest import run
from tests.runtime.clips import write_clip

PAIRS = 4
PLACES = ("first", "second")


@pytest.fixture(scope="module")
def digits() -> list[Question]:
    """Held-out digits, neighbours of which differ."""
    found = [q for q in questions(3 * PAIRS, 0, 0) if q.image is not None]
    pairs = [pair for pair in zip(found[::2], found[1::2], strict=True) if pair[0].answer != pair[1].answer]
    assert len(pairs) >= PAIRS
    return [digit for pair in pairs[:PAIRS] for digit in pair]


def picture(digit: Question) -> np.ndarray:
    assert digit.image is not None
    return np.asarray(digit.image.convert("RGB").resize((256, 256)))


@pytest.mark.parametrize("runtime", list(BACKENDS))
def test_digits_of_the_frames_are_read_in_their_order(
    runtime: Runtime, nano_int4: Path, digits: list[Question], tmp_path: Path
) -> None:
    """Nano was taught two pictures, so each clip is two seconds long; a wrong order fails both questions of a pair."""
    bundle = open_bundle(nano_int4)
    engine = open_engine(bundle, runtime)
    right = 0
    try:
        for at in range(0, len(digits), 2):
            pair = digits[at : at + 2]
            path = write_clip(tmp_path / f"{at}.mp4", [picture(digit) for digit in pair])
            video, notes = read_for(Room.of(bundle, None, [], 0, 0), path)
            assert notes == [f"{at}.mp4: 2 pictures (1 a second)"]
            for place, digit in zip(PLACES, pair, strict=True):
                question = f"Which digit is in the {place} picture?"
                said = "".join(engine.send(question, GREEDY, 8, Attachments(video=video)))
                engine.reset()
                right += said == digit.answer
    finally:
        engine.close()
    assert right >= 2 * PAIRS - 1, "int4 may turn one that was nearly a draw"


@pytest.mark.parametrize("runtime", list(BACKENDS))
def test_a_video_that_fills_the_context_is_cut_and_answered(
    runtime: Runtime, nano_int4: Path, digits: list[Question], tmp_path: Path
) -> None:
    """What nano says of so many pictures is not its task; that the engine takes them all without an error is ours."""
    sound = np.random.default_rng(0).normal(0, 0.05, 20 * 16_000)
    path = write_clip(tmp_path / "long.mp4", [picture(digits[i % 8]) for i in range(20)], sound, rate=2)
    result = run(f"g3n-run {nano_int4} --runtime {runtime} --max-tokens 4 --video {path} 'What is it?'", tmp_path)
    assert result.returncode == 0 and result.stdout.strip(), result.stderr
    said = " ".join(result.stderr.split())
    assert "(long.mp4: 11 pictures (1 a second) and 11.0 s of sound)" in said
    assert "long.mp4 is cut: the first 11 s of 20." in said and "fit the context of 4096" in said


@pytest.mark.parametrize(
    ("program", "runtime"), [*(("g3n-run", runtime) for runtime in BACKENDS), ("python -m g3n_runtime", "litert")]
)
def test_the_sound_of_a_video_is_heard(program: str, runtime: Runtime, nano_int4: Path, tmp_path: Path) -> None:
    """Of one without pictures: nano was not taught pictures and sound at once."""
    said = next(q for q in questions(0, 0, 6) if q.answer == "zero red")
    path = write_clip(tmp_path / "said.mov", sound=said.sound, sound_codec="pcm_s16le")
    command = f"{program} {nano_int4} --runtime {runtime} --temperature 0 --video {path} Transcribe."
    result = run(command, tmp_path)
    assert (result.returncode, result.stdout) == (0, "zero red\n"), result.stderr
    assert result.stderr == "(said.mov: 1.2 s of sound)\n"


def test_a_playlist_is_no_video(nano_int4: Path, tmp_path: Path) -> None:
    (tmp_path / "list.mp4").write_text("#EXTM3U\nfile:///etc/hosts\n", encoding="utf-8")
    for program in ("g3n-run", "python -m g3n_runtime"):
        result = run(f"{program} {nano_int4} --video {tmp_path / 'list.mp4'} Hi", tmp_path)
        assert result.returncode == MediaError.exit_code and "does not begin like a video" in result.stderr
