"""Training batches of pictures and sounds for nano's towers; every batch follows from a seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers.models.gemma3n.feature_extraction_gemma3n import Gemma3nAudioFeatureExtractor

from nano_training.pictures import DigitSet, Picture, random_picture
from nano_training.voices import RATE, Utterance, resample

DIGIT_QUESTIONS = ("What digit is this?", "Which digit is written here?", "Read the digit.")
SCENE_QUESTIONS = ("What is in the picture?", "Describe the picture.", "What do you see?")
SPEECH_QUESTIONS = ("Transcribe.", "Transcribe the speech.", "What is said?")

_ECHO = 800
_FLAT_BANDS, _FLAT_FRAMES = 20, 10


@dataclass(frozen=True)
class PictureBatch:
    """``pixels`` (B, 3, side, side) in [0, 1]."""

    pixels: Tensor
    captions: list[str]


@dataclass(frozen=True)
class SoundBatch:
    """``mel`` (B, frames, 128), ``valid`` (B, frames), true where there is sound, and the words that are said."""

    mel: Tensor
    valid: Tensor
    words: list[tuple[str, ...]]


def to_pixels(image: Image.Image, side: int) -> Tensor:
    """(3, side, side) as the checkpoint's image processor prepares it: bicubically resized, with any aspect ratio."""
    resized = image.resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(resized, np.float32) / 255).permute(2, 0, 1)


def picture_batch(
    digits: DigitSet, rng: Random, count: int, side: int, share: tuple[float, float], scenes: float
) -> PictureBatch:
    """``count`` pictures for a model input of ``side`` pixels, drawn at 0.6 to 1.6 times that size."""
    pictures: list[Picture] = []
    for _ in range(count):
        base = round(side * rng.uniform(0.6, 1.6))
        pictures.append(random_picture(digits, rng, base, share, scenes))
    pixels = torch.stack([to_pixels(p.image, side) for p in pictures])
    return PictureBatch(pixels, [p.caption for p in pictures])


@dataclass(frozen=True)
class Sound:
    """``mel`` (frames, 128) in half precision, and what it says."""

    mel: Tensor
    words: tuple[str, ...]


class Studio:
    """Makes utterances, whole or joined from words of one voice, and distorts them as rooms and phones do."""

    def __init__(self, utterances: Sequence[Utterance]) -> None:
        self._extract = Gemma3nAudioFeatureExtractor()
        self._phrases: dict[int, list[Utterance]] = {}
        self._words: dict[str, list[Utterance]] = {}
        for utterance in utterances:
            self._phrases.setdefault(len(utterance.words), []).append(utterance)
            if len(utterance.words) == 1:
                self._words.setdefault(utterance.voice, []).append(utterance)

    def record(self, rng: Random, count: int) -> Sound:
        """An utterance of ``count`` words."""
        words, samples = self._utter(rng, count)
        extracted = self._extract(samples, pad_to_multiple_of=None)
        return Sound(torch.from_numpy(extracted["input_features"][0]).half(), words)

    def _utter(self, rng: Random, count: int) -> tuple[tuple[str, ...], NDArray[np.float32]]:
        if count == 1 or rng.random() < 0.5:
            chosen = rng.choice(self._phrases[count])
            return chosen.words, disturb(_to_float(chosen.samples), rng)
        parts = [rng.choice(self._words[rng.choice(sorted(self._words))])]
        parts += [rng.choice(self._words[parts[0].voice]) for _ in range(count - 1)]
        pieces: list[NDArray[np.float32]] = []
        for part in parts:
            pieces.append(_to_float(part.samples))
            pieces.append(np.zeros(round(RATE * rng.uniform(0.0, 0.2)), np.float32))
        return tuple(p.words[0] for p in parts), disturb(np.concatenate(pieces), rng)


class SpeechLessons:
    """Batches of recorded sounds, by number of words."""

    def __init__(self, sounds: Sequence[Sound]) -> None:
        self._by_words: dict[int, list[Sound]] = {}
        for sound in sounds:
            self._by_words.setdefault(len(sound.words), []).append(sound)

    def batch(self, rng: Random, count: int, words: Sequence[int], frames: int) -> SoundBatch:
        """``count`` utterances with a number of words that ``words`` allows, none longer than ``frames``, each
        :func:`bent`.
        """
        mel = torch.zeros(count, frames, Gemma3nAudioFeatureExtractor().feature_size)
        valid = torch.zeros(count, frames, dtype=torch.bool)
        said: list[tuple[str, ...]] = []
        while len(said) < count:
            sound = rng.choice(self._by_words[rng.choice(list(words))])
            length = len(sound.mel)
            if length > frames:
                continue
            mel[len(said), :length] = bent(sound.mel.float(), rng)
            valid[len(said), :length] = True
            said.append(sound.words)
        return SoundBatch(mel, valid, said)


def record(utterances: Sequence[Utterance], seed: int, count: int, kept: Path) -> list[Sound]:
    """``count`` sounds made from ``utterances``; cached in the file ``kept``."""
    if not kept.is_file():
        studio, rng = Studio(utterances), Random(f"sounds/{seed}")
        made = [studio.record(rng, rng.choice((1, 1, 1, 2))) for _ in range(count)]
        partial = kept.with_name(kept.stem + ".partial.npz")
        np.savez(
            partial,
            lengths=[len(sound.mel) for sound in made],
            mels=torch.cat([sound.mel for sound in made]).numpy(),
            words=[" ".join(sound.words) for sound in made],
        )
        partial.replace(kept)
    with np.load(kept) as stored:
        mels = torch.from_numpy(stored["mels"]).split(stored["lengths"].tolist())
        return [Sound(mel, tuple(str(text).split())) for mel, text in zip(mels, stored["words"], strict=True)]


def bent(mel: Tensor, rng: Random) -> Tensor:
    """``mel`` (frames, bands) as if from a longer or shorter vocal tract, with some bands and a few frames flat."""
    frames, bands = mel.shape
    places = (torch.arange(bands) * rng.uniform(0.88, 1.14)).clamp(max=bands - 1)
    below = places.floor().long()
    share = places - below
    warped = mel[:, below] * (1 - share) + mel[:, (below + 1).clamp(max=bands - 1)] * share
    flat = warped.mean()
    for axis, widest in ((0, min(_FLAT_FRAMES, frames)), (1, _FLAT_BANDS)):
        width = rng.randint(0, widest)
        warped.narrow(axis, rng.randint(0, warped.shape[axis] - width), width).copy_(flat)
    return warped


def disturb(samples: NDArray[np.float32], rng: Random) -> NDArray[np.float32]:
    """Vary tempo, pitch, room, telephone band, loudness and surrounding silence, and add noise."""
    noise = np.random.default_rng(rng.getrandbits(32))
    samples = resample(samples, rng.uniform(0.9, 1.12))
    if rng.random() < 0.15:
        echo = noise.normal(0, 1, _ECHO) * np.exp(-np.arange(_ECHO) / rng.uniform(80, 250))
        echo[0] = rng.uniform(4, 12)
        samples = np.convolve(samples, echo / np.sqrt((echo**2).sum()))[: len(samples)].astype(np.float32)
    if rng.random() < 0.15:
        samples = resample(resample(samples, 0.5), 2.0)
    before, after = rng.uniform(0.02, 0.35), rng.uniform(0.2, 0.5)
    samples = np.pad(samples * rng.uniform(0.15, 1.6), (round(RATE * before), round(RATE * after)))
    level = np.sqrt((samples**2).mean()) * 10 ** (-rng.uniform(20, 50) / 20)
    hiss = noise.normal(0, 1, len(samples))
    if rng.random() < 0.5:
        hiss = np.convolve(hiss, np.ones(8) / np.sqrt(8), "same")
    return np.clip(samples + hiss * level, -1, 1).astype(np.float32)


def _to_float(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    return samples.astype(np.float32) / np.float32(32768)
