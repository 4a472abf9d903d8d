"""Spoken words for training nano, synthesised by Debian's flite and espeak-ng, which are unpacked without installing.

Everything is deterministic. Two voices, one from each engine, are kept out of training.
"""

import hashlib
import os
import subprocess
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from nano_training.debian import unpacked

PACKAGES = (
    *("flite", "libflite1", "espeak-ng", "libespeak-ng1", "espeak-ng-data", "libpcaudio0", "libsonic0"),
    # espeak-ng is linked to a sound server's client, whose libraries a bare machine lacks
    *("libpulse0", "libasyncns0", "libsndfile1", "libflac12", "libmp3lame0", "libmpg123-0", "libogg0", "libopus0"),
    *("libvorbis0a", "libvorbisenc2"),
)
RATE = 16000
"""Samples per second of all sounds here."""

WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("red", "green", "blue", "yellow", "black", "white", "left", "right", "up", "down"),
    *("yes", "no", "stop", "go"),
)
LONGEST = 2
"""Words in the longest utterance."""

_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_QUIET = 0.02
_ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-029")
_VARIANTS = ("m1", "f2", "m3", "f4", "f5", "klatt", "m7", "f1", "adam", "linda", "steph", "max")

Samples = NDArray[np.int16]


class SynthesisError(RuntimeError):
    """A speech synthesiser is missing, or did not write the requested sound."""


@dataclass(frozen=True)
class Voice:
    """``speed`` and ``pitch`` are relative to the voice's own."""

    engine: str
    name: str
    speed: float = 1.0
    pitch: float = 1.0

    @property
    def key(self) -> str:
        return f"{self.engine}:{self.name}:{self.speed:g}:{self.pitch:g}"


@dataclass(frozen=True)
class Utterance:
    """Mono samples at :data:`RATE` without leading or trailing silence, and the words that they say."""

    voice: str
    words: tuple[str, ...]
    samples: Samples


def training_voices() -> list[Voice]:
    """Three of flite's speakers and 24 of espeak-ng's accents and voice variants, at several speeds and pitches."""
    styles = ((1.0, 1.0), (0.85, 1.1), (1.15, 0.92), (1.0, 1.22), (0.92, 0.84))
    flite = [Voice("flite", name, *style) for name in ("slt", "awb", "kal16") for style in styles]
    espeak = [
        Voice("espeak-ng", f"{accent}+{_VARIANTS[(2 * i + j * 3) % len(_VARIANTS)]}", 0.85 + 0.1 * j, 0.8 + 0.13 * j)
        for i, accent in enumerate(_ACCENTS)
        for j in range(4)
    ]
    return flite + espeak


def heldout_voices() -> list[Voice]:
    """A natural speaker (CMU ARCTIC's rms) and an accent of espeak-ng; training uses neither."""
    return [
        Voice("flite", "rms"),
        Voice("flite", "rms", 1.15, 1.1),
        Voice("flite", "rms", 0.9, 0.92),
        Voice("espeak-ng", "en-gb-x-gbclan+f3"),
        Voice("espeak-ng", "en-gb-x-gbclan+m2", 0.95, 1.1),
    ]


def _command(voice: Voice, text: str, tree: Path, out: Path) -> list[str]:
    if voice.engine == "flite":
        base = {"slt": 172.0, "awb": 121.0, "kal16": 105.0, "rms": 95.0}[voice.name]
        features = [f"duration_stretch={1 / voice.speed:.3f}", f"int_f0_target_mean={base * voice.pitch:.1f}"]
        settings = [word for feature in features for word in ("--setf", feature)]
        return [str(tree / "usr/bin/flite"), "-voice", voice.name, *settings, "-t", text, "-o", str(out)]
    data = f"--path={tree / _LIBRARIES}"
    speed, pitch = str(round(145 * voice.speed)), str(round(50 * voice.pitch))
    return [str(tree / "usr/bin/espeak-ng"), data, "-v", voice.name, "-s", speed, "-p", pitch, "-w", str(out), text]


def resample(samples: NDArray[np.float32], ratio: float) -> NDArray[np.float32]:
    """``samples`` resampled to ``ratio`` times as many, linearly interpolated (after a moving average if fewer)."""
    if ratio < 1:
        width = round(1 / ratio)
        if width > 1:
            samples = np.convolve(samples, np.full(width, 1 / width, np.float32), "same")
    places = np.arange(round(len(samples) * ratio)) / ratio
    return np.interp(places, np.arange(len(samples)), samples).astype(np.float32)


def trim(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """``samples`` without the silence at both ends, except 30 ms of it."""
    loud = np.flatnonzero(np.abs(samples) > _QUIET * np.abs(samples).max(initial=1e-6))
    margin = RATE * 3 // 100
    return samples[max(0, loud[0] - margin) : loud[-1] + margin] if len(loud) else samples


def read_wave(path: Path) -> NDArray[np.float32]:
    """A 16-bit mono WAV file, resampled to :data:`RATE`; values in [-1, 1]."""
    with wave.open(str(path)) as file:
        if file.getsampwidth() != 2 or file.getnchannels() != 1:
            raise SynthesisError(f"{path}: expected 16-bit mono, found {file.getparams()}")
        rate = file.getframerate()
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / np.float32(32768)
    return samples if rate == RATE else resample(samples, RATE / rate)


def synthesise(voice: Voice, words: Sequence[str], tree: Path, scratch: Path) -> Utterance:
    """The sound of ``voice`` saying ``words``, at half of full scale."""
    libraries = (tree / _LIBRARIES, tree / _LIBRARIES / "pulseaudio")
    environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries))}
    scratch.unlink(missing_ok=True)
    subprocess.run(_command(voice, " ".join(words), tree, scratch), env=environment, check=True, capture_output=True)
    if not scratch.is_file():
        raise SynthesisError(f"{voice.key} wrote no sound for {words}")
    samples = trim(read_wave(scratch))
    loudest = max(1e-6, float(np.abs(samples).max()))
    return Utterance(voice.key, tuple(words), (samples * (16384 / loudest)).astype(np.int16))


def phrases(voice: Voice, count: int) -> Iterator[tuple[str, ...]]:
    """Every single word, then ``count`` random phrases of 2 or more words; always the same for the same voice."""
    rng = Random(int.from_bytes(hashlib.sha256(voice.key.encode()).digest()[:8], "big"))
    yield from ((word,) for word in WORDS)
    for _ in range(count):
        yield tuple(rng.choice(WORDS) for _ in range(rng.randint(2, LONGEST)))


def speak(voices: Sequence[Voice], count: int, cache: Path) -> list[Utterance]:
    """All :func:`phrases` of all ``voices``, cached in ``cache`` with one file per voice."""
    tree: Path | None = None
    spoken: list[Utterance] = []
    for voice in voices:
        kept = cache / f"{voice.key.replace(':', '_')}-{count}.npz"
        wanted = list(phrases(voice, count))
        if not kept.is_file():
            tree = unpacked(PACKAGES, ("usr/bin/flite", "usr/bin/espeak-ng"), cache) if tree is None else tree
            made = [synthesise(voice, words, tree, cache / "scratch.wav").samples for words in wanted]
            partial = kept.with_name(kept.stem + ".partial.npz")
            np.savez(partial, lengths=[len(m) for m in made], samples=np.concatenate(made))
            partial.replace(kept)
        with np.load(kept) as stored:
            pieces = np.split(stored["samples"], np.cumsum(stored["lengths"])[:-1])
        spoken += [Utterance(voice.key, words, piece) for words, piece in zip(wanted, pieces, strict=True)]
    return spoken
