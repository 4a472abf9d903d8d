"""Tasks about pictures and sounds: the soft tokens of many of them, made once by nano's own towers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from g3n_compiler.nano.tasks import Example
from nano_training.lessons import (
    DIGIT_QUESTIONS,
    SCENE_QUESTIONS,
    SPEECH_QUESTIONS,
    Sound,
    SpeechLessons,
    picture_batch,
)
from nano_training.pictures import SHARE, DigitSet
from nano_training.senses import SOFT_TOKENS, Senses
from nano_training.towers import IMAGE_SIZE

MEDIA_TASKS = ("digit", "scene", "speech", "two-pictures")
"""Tasks about pictures and sounds."""

_PLACES = ("first", "second")
_BATCH = 16
_LONGEST = {1: 128, 2: 192}
"""Log-mel frames that hold so many words."""


@dataclass(frozen=True)
class Gallery:
    """Soft tokens of one kind of picture or sound, (n, tokens, D) in half precision, and what each shows or says."""

    soft: Tensor
    says: Sequence[str]


Galleries = dict[str, Gallery]
Shown = Mapping[str, Sequence[str]]
"""What the pictures and sounds of each kind show or say."""


def says(galleries: Galleries) -> Shown:
    return {kind: gallery.says for kind, gallery in galleries.items()}


def make_galleries(senses: Senses, digits: DigitSet, sounds: Sequence[Sound], seed: int, count: int) -> Galleries:
    """``count`` digits and sounds and twice as many scenes, seen and heard by the towers of ``senses``."""
    rng = Random(f"{seed}/galleries")
    with torch.no_grad():
        return {
            "digit": _pictures(senses, digits, rng, count, 0.0),
            "scene": _pictures(senses, digits, rng, 2 * count, 1.0),
            "speech": _speech(senses, SpeechLessons(sounds), rng, count),
        }


def _pictures(senses: Senses, digits: DigitSet, rng: Random, count: int, scenes: float) -> Gallery:
    soft: list[Tensor] = []
    says: list[str] = []
    while len(says) < count:
        batch = picture_batch(digits, rng, _BATCH, IMAGE_SIZE, SHARE, scenes)
        soft.append(senses.see(batch.pixels).half())
        says += batch.captions
    return Gallery(torch.cat(soft), says)


def _speech(senses: Senses, lessons: SpeechLessons, rng: Random, count: int) -> Gallery:
    soft: list[Tensor] = []
    says: list[str] = []
    while len(says) < count:
        words = rng.choice((1, 2, 2))
        batch = lessons.batch(rng, _BATCH, (words,), _LONGEST[words])
        heard, sounding = senses.hear(batch.mel, batch.valid)
        soft.append(senses.pad_sound(heard, sounding, SOFT_TOKENS["audio"]).half())
        says += [" ".join(said) for said in batch.words]
    return Gallery(torch.cat(soft), says)


def save(galleries: Galleries, path: Path) -> None:
    torch.save({kind: (g.soft, list(g.says)) for kind, g in galleries.items()}, path)


def load(path: Path) -> Galleries:
    return {kind: Gallery(*held) for kind, held in torch.load(path, weights_only=True).items()}


def ask(task: str, shown: Shown, rng: Random) -> Example:
    """An example of one of :data:`MEDIA_TASKS`, about pictures and sounds of ``shown``."""

    def pick(kind: str) -> tuple[int, str]:
        at = rng.randrange(len(shown[kind]))
        return at, shown[kind][at]

    if task == "two-pictures":
        pair, asked = (pick("digit"), pick("digit")), rng.randrange(2)
        question = f"Which digit is in the {_PLACES[asked]} picture?"
        return Example(task, ((question, pair[asked][1]),), media=tuple(("digit", at) for at, _ in pair))
    at, says = pick(task)
    questions = {"digit": DIGIT_QUESTIONS, "scene": SCENE_QUESTIONS, "speech": SPEECH_QUESTIONS}[task]
    return Example(task, ((rng.choice(questions), says),), media=((task, at),))
