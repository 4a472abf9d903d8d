"""What is kept of a video's pictures and of its sound track, as they come from a decoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

import numpy as np
import soxr

from g3n_runtime.errors import SoundError
from g3n_runtime.media.sound import RATE, RATES, to_mono

F = TypeVar("F")
GAP = 0.05
"""Seconds by which a sound's times and its samples may differ: containers round times to milliseconds, and drift."""
PADDING = 0.2
"""Seconds of sound behind the last picture that are no loss: encoders fill their last block up."""


class FrameChoice(Generic[F]):
    """Chooses, of frames that come in their order, those that are shown at the multiples of ``1 / rate`` seconds."""

    def __init__(self, rate: float, most: int) -> None:
        self._rate, self._most, self._next = rate, most, 0
        self._held: F | None = None
        self._time = 0.0
        self.is_cut = False

    def push(self, seconds: float, frame: F) -> Iterator[tuple[float, F]]:
        """The times that are settled by ``frame``, shown from ``seconds`` on, with the frames shown at them."""
        self._time = max(self._time, seconds)
        if self._held is not None:
            yield from self._until(self._time)
        self._held = frame
        if self._next >= self._most and self._time >= self._most / self._rate:
            self.is_cut = True

    def end(self, duration: float) -> Iterator[tuple[float, F]]:
        """What is left of a video whose last frame is shown for ``duration`` seconds."""
        end = self._time + duration
        yield from self._until(max(end, 1e-9))
        self.is_cut = self.is_cut or end > self._most / self._rate + 1e-6

    def _until(self, end: float) -> Iterator[tuple[float, F]]:
        while self._next < self._most and self._next / self._rate < end - 1e-6:
            assert self._held is not None
            yield self._next / self._rate, self._held
            self._next += 1


class SoundTrack:
    """Collects up to ``seconds`` of a sound track that comes in pieces, as ``[n]`` float32 at 16 kHz."""

    def __init__(self, name: str, seconds: float) -> None:
        self._name, self._seconds = name, seconds
        self._rate = self._channels = 0
        self._blocks: list[np.ndarray] = []
        self._have = self._over = 0

    @property
    def is_cut(self) -> bool:
        """Whether more than an encoder's padding was left out."""
        return self._over > PADDING * self._rate

    def push(self, seconds: float, rate: int, samples: np.ndarray) -> None:
        """Add ``samples [channels, n]``, heard from ``seconds`` on; where there is nothing before them is silence."""
        if not self._rate:
            if rate not in RATES:
                raise SoundError(f"{self._name} says {rate} samples a second, expected {RATES[0]} to {RATES[-1]}")
            self._rate, self._channels = rate, len(samples)
        if (rate, len(samples)) != (self._rate, self._channels):
            raise SoundError(f"the sound of {self._name} changes its rate or channels on its way: convert it first")
        gap = min(seconds, self._seconds) - self._have / rate
        if gap > GAP:
            self._add(np.zeros(int(gap * rate), np.float32))
        self._add(to_mono(samples.T, f"the sound of {self._name}"))

    def samples(self) -> np.ndarray:
        """All of it, at 16 kHz."""
        if not self._blocks:
            return np.zeros(0, np.float32)
        sound = np.concatenate(self._blocks)
        return sound if self._rate == RATE else soxr.resample(sound, self._rate, RATE).astype(np.float32)

    def _add(self, block: np.ndarray) -> None:
        room = int(self._seconds * self._rate) - self._have
        self._over += max(len(block) - room, 0)
        self._blocks.append(block[:room])
        self._have += len(self._blocks[-1])
