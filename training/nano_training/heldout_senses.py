"""Held-out pictures and speech, kept in the package so that any engine can be measured without a download.

``heldout/digits.png`` is a montage of handwritten digits that training never saw, each newly drawn on a canvas that
follows from its number; ``heldout/speech/*.ogg`` are phrases by voices that training never heard.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

from g3n_compiler.nano import heldout_senses_dir
from nano_training.lessons import DIGIT_QUESTIONS, SCENE_QUESTIONS, SPEECH_QUESTIONS
from nano_training.pictures import SHARE, DigitSet, draw_digit, draw_scene
from nano_training.voices import LONGEST, RATE, Utterance

DIGITS = 300
SCENES = 1000
CLIPS = 240
PHRASES = 60
"""Phrases of several words for each held-out voice; :data:`CLIPS` are chosen among them and the single words."""
_COLUMNS = 20
_SIDE = 28
_SMALLEST, _LARGEST = 180, 400


@dataclass(frozen=True)
class Question:
    """One request and its only correct answer. ``kind`` is "digit", "scene" or "speech"; sound is mono, 16 kHz."""

    kind: str
    name: str
    text: str
    answer: str
    image: Image.Image | None = None
    sound: NDArray[np.float32] | None = None

    @property
    def images(self) -> list[Image.Image]:
        return [] if self.image is None else [self.image]

    @property
    def sounds(self) -> list[NDArray[np.float32]]:
        return [] if self.sound is None else [self.sound]


def folder() -> Path:
    """Where the held-out files are."""
    return heldout_senses_dir()


def write(digits: DigitSet, speech: Sequence[Utterance], out: Path) -> None:
    """Choose :data:`DIGITS` digits and :data:`CLIPS` phrases from the held-out sets, and write them to ``out``.

    Args:
        speech: the result of :func:`~nano_training.voices.speak` for the held-out voices and :data:`PHRASES`.
    """
    (out / "speech").mkdir(parents=True, exist_ok=True)
    chosen = Random("heldout/digits").sample(range(len(digits.labels)), DIGITS)
    rows = digits.images[chosen].reshape(-1, _COLUMNS, _SIDE, _SIDE).transpose(0, 2, 1, 3)
    Image.fromarray(rows.reshape(-1, _COLUMNS * _SIDE)).save(out / "digits.png", optimize=True)
    clips: list[dict[str, str]] = []
    voices = sorted({utterance.voice for utterance in speech})
    for i in range(CLIPS):
        rng, voice, words = Random(f"heldout/speech/{i}"), voices[i % len(voices)], 1 + i // len(voices) % LONGEST
        spoken = rng.choice([u for u in speech if u.voice == voice and len(u.words) == words])
        name = f"{i:02d}.ogg"
        samples = np.pad(spoken.samples.astype(np.float32) / 32768, (RATE // 10, RATE * 3 // 10))
        samples += np.random.default_rng(i).normal(0, 1e-3, len(samples)).astype(np.float32)
        soundfile.write(out / "speech" / name, samples, RATE, format="OGG", subtype="VORBIS", compression_level=0.7)
        clips.append({"file": name, "voice": voice, "words": " ".join(spoken.words)})
    labels = "".join(str(label) for label in digits.labels[chosen])
    text = json.dumps({"digits": labels, "speech": clips}, indent=1)
    (out / "answers.json").write_text(text + "\n", "utf-8")


def _digit_questions(labels: str) -> list[Question]:
    montage = np.asarray(Image.open(folder() / "digits.png").convert("L"))
    questions: list[Question] = []
    for i, label in enumerate(labels):
        row, column = divmod(i, _COLUMNS)
        tile = montage[row * _SIDE : (row + 1) * _SIDE, column * _SIDE : (column + 1) * _SIDE]
        rng = Random(f"heldout/digit/{i}")
        picture = draw_digit(tile, int(label), rng, rng.randint(_SMALLEST, _LARGEST), SHARE)
        text = DIGIT_QUESTIONS[i % len(DIGIT_QUESTIONS)]
        questions.append(Question("digit", f"digit {i}", text, label, image=picture.image))
    return questions


def _scene_questions(count: int) -> list[Question]:
    questions: list[Question] = []
    for i in range(count):
        rng = Random(f"heldout/scene/{i}")
        picture = draw_scene(rng, rng.randint(_SMALLEST, _LARGEST), SHARE)
        text = SCENE_QUESTIONS[i % len(SCENE_QUESTIONS)]
        questions.append(Question("scene", f"scene {i}", text, picture.caption, image=picture.image))
    return questions


def says() -> dict[str, list[str]]:
    """What the held-out digits and clips show and say, by kind."""
    answers = json.loads((folder() / "answers.json").read_text("utf-8"))
    return {"digit": list(answers["digits"]), "speech": [clip["words"] for clip in answers["speech"]]}


def questions(digits: int = DIGITS, scenes: int = SCENES, clips: int = CLIPS) -> list[Question]:
    """The first questions of each kind, as many as are asked for."""
    answers = json.loads((folder() / "answers.json").read_text("utf-8"))
    found = _digit_questions(answers["digits"][:digits]) + _scene_questions(scenes)
    for i, clip in enumerate(answers["speech"][:clips]):
        samples, rate = soundfile.read(folder() / "speech" / clip["file"], dtype="float32")
        if rate != RATE or samples.ndim != 1:
            raise ValueError(f"{clip['file']}: expected mono at {RATE} Hz, found shape {samples.shape} at {rate} Hz")
        text = SPEECH_QUESTIONS[i % len(SPEECH_QUESTIONS)]
        found.append(Question("speech", f"{clip['voice']} {clip['file']}", text, clip["words"], sound=samples))
    return found


def long_sound(seconds: int) -> np.ndarray:
    """The held-out clips one after the other, half a second apart: ``seconds`` of them, ``[n]`` float32.

    Nano was taught no sound of more than a few seconds. What it answers shows what it heard, but no skill.
    """
    files = [clip["file"] for clip in json.loads((folder() / "answers.json").read_text("utf-8"))["speech"]]
    clips = (soundfile.read(folder() / "speech" / file, dtype="float32")[0] for file in files)
    return np.concatenate([np.pad(clip, (0, RATE // 2)) for clip in clips])[: seconds * RATE]
