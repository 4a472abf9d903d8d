"""Examples for ``g3n-calibrate`` from nano's training material: ``python -m nano_training.calibration_set``.

Scenes and digits are newly drawn, and words are spoken by training voices; none of them are among the questions of
:mod:`.heldout_senses`. The texts are the last of the held-out documents, which ``benchmarks/quality.py`` does not
reach.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import click
import numpy as np
import soundfile
from PIL import Image

from g3n_compiler.nano import calibration_examples, heldout_path
from nano_training.lessons import DIGIT_QUESTIONS, SCENE_QUESTIONS, SPEECH_QUESTIONS
from nano_training.pictures import SHARE, DigitSet, draw_digit, draw_scene, fetch_digits
from nano_training.voices import LONGEST, RATE, Utterance, speak, training_voices

SCENES, DIGITS, CLIPS, TEXTS = 64, 24, 80, 48
PHRASES = 4
"""Phrases of several words that each training voice says."""
EXAMPLES = "examples.jsonl"
_SMALLEST, _LARGEST = 180, 320


def path() -> Path:
    """The examples in the package."""
    return calibration_examples()


def write(digits: DigitSet, speech: list[Utterance], out: Path) -> None:
    """Write the examples, and the pictures and sounds that they name, to ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    lines = [*_scenes(out), *_digits(digits, out), *_speech(speech, out), *_texts()]
    (out / EXAMPLES).write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


def _scenes(out: Path) -> Iterator[dict[str, Any]]:
    for i in range(SCENES):
        rng = Random(f"calibration/scene/{i}")
        picture = draw_scene(rng, rng.randint(_SMALLEST, _LARGEST), SHARE)
        yield _picture(picture.image, out / f"scene-{i:02d}.webp", SCENE_QUESTIONS[i % 3], picture.caption)


def _digits(digits: DigitSet, out: Path) -> Iterator[dict[str, Any]]:
    for i in range(DIGITS):
        rng = Random(f"calibration/digit/{i}")
        chosen = rng.randrange(len(digits.labels))
        label = int(digits.labels[chosen])
        picture = draw_digit(digits.images[chosen], label, rng, rng.randint(_SMALLEST, _LARGEST), SHARE)
        yield _picture(picture.image, out / f"digit-{i:02d}.webp", DIGIT_QUESTIONS[i % 3], str(label))


def _picture(image: Image.Image, file: Path, question: str, answer: str) -> dict[str, Any]:
    image.save(file, quality=80)
    return {"prompt": question, "images": [file.name], "answer": answer}


def _speech(speech: list[Utterance], out: Path) -> Iterator[dict[str, Any]]:
    voices = sorted({utterance.voice for utterance in speech})
    for i in range(CLIPS):
        rng, words = Random(f"calibration/speech/{i}"), 1 + i % LONGEST
        spoken = rng.choice([u for u in speech if u.voice == voices[i % len(voices)] and len(u.words) == words])
        samples = np.pad(spoken.samples.astype(np.float32) / 32768, (RATE // 10, RATE * 3 // 10))
        samples += np.random.default_rng(i).normal(0, 1e-3, len(samples)).astype(np.float32)
        file = out / f"speech-{i:02d}.ogg"
        soundfile.write(file, samples, RATE, format="OGG", subtype="VORBIS", compression_level=0.7)
        yield {"prompt": SPEECH_QUESTIONS[i % 3], "audio": [file.name], "answer": " ".join(spoken.words)}


def _texts() -> Iterator[dict[str, Any]]:
    for line in heldout_path().read_text("utf-8").splitlines()[-TEXTS:]:
        yield {"text": json.loads(line)["text"]}


@click.command()
@click.option("--cache", type=click.Path(path_type=Path), default=Path("nano-corpus"), help="folder for the packages")
@click.option("--out", type=click.Path(path_type=Path), default=path().parent, help="[default: the package's own]")
def main(cache: Path, out: Path) -> None:
    """Draw, speak and write the examples."""
    digits, _ = fetch_digits(cache)
    write(digits, speak(training_voices(), PHRASES, cache), out)


if __name__ == "__main__":
    main()
