"""Batches that nano's eyes and ears learn from; every one follows from a seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers.models.gemma3n.feature_extraction_gemma3n import Gemma3nAudioFeatureExtractor

from g3n_compiler.nano.pictures import DigitSet, Picture, random_picture
from g3n_compiler.nano.voices import RATE, Utterance, resample

DIGIT_QUESTIONS = ("What digit is this?", "Which digit is written here?", "Read the digit.")
SCENE_QUESTIONS = ("What is in the picture?", "Describe the picture.", "What do you see?")
SPEECH_QUESTIONS = ("Transcribe.", "Transcribe the speech.", "What is said?")

_HOP = 160
_FIRST_FRAME = 513
"""Samples of the first frame of the feature extractor, one of them for its pre-emphasis."""


@dataclass(frozen=True)
class PictureBatch:
    """``pixels`` (B, 3, side, side) in [0, 1]."""

    pixels: Tensor
    captions: list[str]


@dataclass(frozen=True)
class SoundBatch:
    """``mel`` (B, frames, 128), ``valid`` (B, frames) true where sound is, and what is said."""

    mel: Tensor
    valid: Tensor
    words: list[tuple[str, ...]]


def to_pixels(image: Image.Image, side: int) -> Tensor:
    """(3, side, side) as the checkpoint's image processor prepares it: resized bicubically, whatever the aspect."""
    resized = image.resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(resized, np.float32) / 255).permute(2, 0, 1)


def picture_batch(
    digits: DigitSet, rng: Random, count: int, side: int, share: tuple[float, float], scenes: float
) -> PictureBatch:
    """``count`` pictures for a model input of ``side`` pixels, drawn at 0.6 to 1.6 times that."""
    pictures: list[Picture] = []
    for _ in range(count):
        base = round(side * rng.uniform(0.6, 1.6))
        pictures.append(random_picture(digits, rng, base, share, scenes))
    pixels = torch.stack([to_pixels(p.image, side) for p in pictures])
    return PictureBatch(pixels, [p.caption for p in pictures])


class SpeechLessons:
    """Draws utterances, whole or put together from words of one voice, and disturbs them as rooms and phones do."""

    def __init__(self, utterances: Sequence[Utterance]) -> None:
        self._extract = Gemma3nAudioFeatureExtractor()
        self._phrases: dict[int, list[Utterance]] = {}
        self._words: dict[str, list[Utterance]] = {}
        for utterance in utterances:
            self._phrases.setdefault(len(utterance.words), []).append(utterance)
            if len(utterance.words) == 1:
                self._words.setdefault(utterance.voice, []).append(utterance)

    def batch(self, rng: Random, count: int, words: Sequence[int], frames: int) -> SoundBatch:
        """``count`` utterances of as many words as ``words`` allows, none longer than ``frames``."""
        mel = torch.zeros(count, frames, self._extract.feature_size)
        valid = torch.zeros(count, frames, dtype=torch.bool)
        said: list[tuple[str, ...]] = []
        while len(said) < count:
            text, samples = self._utter(rng, rng.choice(list(words)))
            if len(samples) > _FIRST_FRAME + (frames - 1) * _HOP:
                continue
            features = self._features(samples)
            mel[len(said), : len(features)] = features
            valid[len(said), : len(features)] = True
            said.append(text)
        return SoundBatch(mel, valid, said)

    def _features(self, samples: NDArray[np.float32]) -> Tensor:
        extracted = self._extract(samples, pad_to_multiple_of=None)
        return torch.from_numpy(extracted["input_features"][0])

    def _utter(self, rng: Random, count: int) -> tuple[tuple[str, ...], NDArray[np.float32]]:
        if count == 1 or rng.random() < 0.5:
            chosen = rng.choice(self._phrases[count])
            return chosen.words, disturb(chosen.samples.astype(np.float32) / 32768, rng)
        parts = [rng.choice(self._words[rng.choice(sorted(self._words))])]
        parts += [rng.choice(self._words[parts[0].voice]) for _ in range(count - 1)]
        pieces: list[NDArray[np.float32]] = []
        for part in parts:
            pieces.append(part.samples.astype(np.float32) / 32768)
            pieces.append(np.zeros(round(RATE * rng.uniform(0.0, 0.2)), np.float32))
        return tuple(p.words[0] for p in parts), disturb(np.concatenate(pieces), rng)


def disturb(samples: NDArray[np.float32], rng: Random) -> NDArray[np.float32]:
    """Another tempo and pitch, room, telephone band, loudness, silence around it, and noise."""
    noise = np.random.default_rng(rng.getrandbits(32))
    samples = resample(samples, rng.uniform(0.87, 1.15))
    if rng.random() < 0.25:
        echo = noise.normal(0, 1, 1600) * np.exp(-np.arange(1600) / rng.uniform(150, 500))
        echo[0] = rng.uniform(4, 12)
        samples = np.convolve(samples, echo / np.sqrt((echo**2).sum()))[: len(samples)].astype(np.float32)
    if rng.random() < 0.25:
        samples = resample(resample(samples, 0.5), 2.0)
    before, after = rng.uniform(0.02, 0.35), rng.uniform(0.2, 0.5)
    samples = np.pad(samples * rng.uniform(0.15, 1.6), (round(RATE * before), round(RATE * after)))
    level = np.sqrt((samples**2).mean()) * 10 ** (-rng.uniform(14, 45) / 20)
    hiss = noise.normal(0, 1, len(samples))
    if rng.random() < 0.5:
        hiss = np.convolve(hiss, np.ones(8) / np.sqrt(8), "same")
    return np.clip(samples + hiss * level, -1, 1).astype(np.float32)
