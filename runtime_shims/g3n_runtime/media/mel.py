"""The log-mel front end of the audio encoder, for a clip and for a stream. Needs numpy only.

Equal to ``transformers`` ``Gemma3nAudioFeatureExtractor``: windows of 32 ms (512 samples) every 10 ms, each with its
own pre-emphasis of 0.97 (HTK's kind, which starts anew in each window), an FFT of 1024, 128 triangular filters from
125 to 7600 Hz, and the logarithm of at least 1e-5. No normalisation. Sound is padded with zeros to a multiple of 128
samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from g3n_runtime.errors import SoundError

RATE = 16_000
WINDOW = 512
HOP = 160
FFT = 1024
BINS = 128
LOWEST_HZ, HIGHEST_HZ = 125.0, 7600.0
PRE_EMPHASIS = 0.97
FLOOR = 1e-5
PAD_TO = 128
NEEDED = WINDOW + 1
"""Samples that one frame is made of: the window and the sample after it."""
OVERLAP = NEEDED // HOP
"""Hops at the end of a stretch of sound in which no window begins that it holds whole."""
LOOKAHEAD = 6
"""Mel frames that a soft token hears past its own first."""


class Step(NamedTuple):
    """What one step of the streaming encoder takes."""

    mel: np.ndarray
    """``[1, frames_per_token, 128]`` float32, zero where there is no frame."""
    mask: np.ndarray
    """``[1, frames_per_token]`` float32, 1 for frames that exist."""


class Segment(NamedTuple):
    """A stretch of sound in hops, with the first ones of what follows it."""

    values: np.ndarray
    """``[1, T, 160]`` float32, zero where there is no sound."""
    mask: np.ndarray
    """``[1, T]`` bool, true for hops that there are."""


class LogMel:
    """Log-mel frames of sound at 16 kHz.

    Args:
        bins: filters; every Gemma 3n has 128.
    """

    def __init__(self, bins: int = BINS) -> None:
        at = np.arange(WINDOW, dtype=np.float32)
        self._window = (0.5 * (1 - np.cos(2 * np.pi * at / WINDOW))).astype(np.float32)
        self._filters = mel_filters(bins)

    def clip(self, samples: np.ndarray) -> np.ndarray:
        """``samples [N]`` float32 -> ``[T, bins]`` float32, T the whole windows in the padded sound.

        Raises:
            SoundError: there is less sound than one window.
        """
        require_enough(len(samples))
        return self.frames(np.pad(samples, (0, -len(samples) % PAD_TO)))

    def frames(self, samples: np.ndarray) -> np.ndarray:
        """As :meth:`clip` without padding: the windows that ``samples`` holds whole, perhaps none."""
        if len(samples) < NEEDED:
            return np.zeros((0, self._filters.shape[1]), np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(samples, NEEDED)[::HOP]
        first = windows[:, :1] * (1.0 - PRE_EMPHASIS)
        rest = windows[:, 1:-1] - PRE_EMPHASIS * windows[:, :-2]
        spectrum = np.abs(np.fft.rfft(np.concatenate((first, rest), 1) * self._window, n=FFT))
        return np.log(np.maximum(spectrum @ self._filters, FLOOR)).astype(np.float32)


class MelStream:
    """Log-mel frames of sound that comes in pieces of any size; together they equal :meth:`LogMel.clip`'s."""

    def __init__(self, mel: LogMel | None = None) -> None:
        self._mel = mel or LogMel()
        self._rest = np.zeros(0, np.float32)
        self.samples = 0

    def push(self, samples: np.ndarray) -> np.ndarray:
        """The frames ``[t, bins]`` that ``samples [n]`` complete."""
        self.samples += len(samples)
        waiting = np.concatenate((self._rest, samples.astype(np.float32, copy=False)))
        frames = self._mel.frames(waiting)
        self._rest = waiting[len(frames) * HOP :]
        return frames

    def finish(self) -> np.ndarray:
        """The frames that the padding at the sound's end completes.

        Raises:
            SoundError: there was less sound than one window.
        """
        require_enough(self.samples)
        padding = np.zeros(-self.samples % PAD_TO, np.float32)
        return self._mel.frames(np.concatenate((self._rest, padding)))


def token_steps(sound: Iterable[np.ndarray], frames_per_token: int = 16, bins: int = BINS) -> Iterator[Step]:
    """Sound in pieces ``[n]`` -> the steps of the streaming encoder, each as soon as its last sample is there.

    Step ``k`` ends with the last frame that soft token ``k`` hears, so the first is led by frames that do not exist;
    the last is filled up with such. A sound of T frames takes ``ceil(T / frames_per_token)`` steps, and what the last
    token does not hear is in none.

    Raises:
        SoundError: there is less sound than one window.
    """
    stream = MelStream(LogMel(bins))
    lead = frames_per_token - 1 - LOOKAHEAD
    waiting, mask = np.zeros((lead, bins), np.float32), np.zeros(lead, np.float32)
    frames = steps = 0

    def ready(new: np.ndarray) -> Iterator[Step]:
        nonlocal waiting, mask, frames, steps
        frames += len(new)
        waiting, mask = np.concatenate((waiting, new)), np.concatenate((mask, np.ones(len(new), np.float32)))
        while len(waiting) >= frames_per_token:
            steps += 1
            yield Step(waiting[None, :frames_per_token], mask[None, :frames_per_token])
            waiting, mask = waiting[frames_per_token:], mask[frames_per_token:]

    for piece in sound:
        yield from ready(stream.push(piece))
    yield from ready(stream.finish())
    if steps < -(-frames // frames_per_token):
        missing = frames_per_token - len(waiting)
        yield Step(np.pad(waiting, ((0, missing), (0, 0)))[None], np.pad(mask, (0, missing))[None])


def frame_count(samples: int) -> int:
    """Mel frames that ``samples`` at 16 kHz become."""
    padded = -(-samples // PAD_TO) * PAD_TO
    return max(0, (padded - NEEDED) // HOP + 1)


def require_enough(samples: int) -> None:
    """Raise :class:`SoundError` for sound too short for a single frame."""
    if frame_count(samples) < 1:
        raise SoundError(
            f"the sound has {samples} samples at 16 kHz ({1000 * samples / RATE:.0f} ms), expected at least "
            f"{NEEDED} (33 ms): record a longer one"
        )


def clip_hops(sound: np.ndarray) -> np.ndarray:
    """``sound [n]`` as hops ``[T, 160]`` that begin exactly the mel frames of the reference, zeros at the end."""
    require_enough(len(sound))
    hops = frame_count(len(sound)) + OVERLAP
    padded = np.zeros(hops * HOP, np.float32)
    padded[: min(len(sound), len(padded))] = sound[: len(padded)]
    return padded.reshape(hops, HOP)


def clip_input(sound: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """``sound [n]`` as hops ``[1, longest, 160]``, zeros after it, and which of them it has ``[1, longest]`` bool.

    Raises:
        SoundError: it is shorter than a mel frame or longer than a clip.
    """
    hops = clip_hops(sound)
    if len(hops) > longest:
        raise SoundError(
            f"the sound lasts {len(sound) / RATE:.1f} s, a clip {longest / 100:.0f} s: cut it, or use the streaming "
            "encoder"
        )
    filled = np.zeros((1, longest, HOP), np.float32)
    filled[0, : len(hops)] = hops
    return filled, np.arange(longest)[None] < len(hops)


def segments(sound: np.ndarray, hops: int) -> Iterator[Segment]:
    """``sound [n]`` in segments of ``hops`` hops, each beginning with the last :data:`OVERLAP` hops of the one before.

    Each window of the sound is whole in one segment. The stock engine cuts in this way too.

    Raises:
        SoundError: the sound is shorter than a mel frame.
    """
    whole = clip_hops(sound)
    for begin in range(0, len(whole) - OVERLAP, hops - OVERLAP):
        part = whole[begin : begin + hops]
        values = np.zeros((1, hops, HOP), np.float32)
        values[0, : len(part)] = part
        yield Segment(values, np.arange(hops)[None] < len(part))


def mel_filters(bins: int = BINS) -> np.ndarray:
    """Triangular filters ``[FFT / 2 + 1, bins]`` on HTK's mel scale, peaks of 1 (``create_fb_matrix``, no norm)."""
    low, high = (2595.0 * math.log10(1.0 + hz / 700.0) for hz in (LOWEST_HZ, HIGHEST_HZ))
    edges = 700.0 * (10 ** (np.linspace(low, high, bins + 2) / 2595.0) - 1.0)
    frequencies = np.arange(FFT // 2 + 1, dtype=np.float32) * (RATE / FFT)
    slopes = edges[None] - frequencies[:, None]
    widths = np.diff(edges)
    return np.maximum(0.0, np.minimum(-slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]))
