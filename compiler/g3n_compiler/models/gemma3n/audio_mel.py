"""The log-mel front end as part of a graph: sound in, log-mel frames out.

Reference: ``transformers`` ``Gemma3nAudioFeatureExtractor``; :mod:`g3n_runtime.media.mel` is the same in numpy. Engines
bring their own mel front end, with another upper edge, window and normalisation; with this one in the artifact, engines
cannot differ. Pre-emphasis, window and Fourier transform are linear, so here they are one matrix.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from g3n_runtime.media.mel import FFT, FLOOR, HOP, PRE_EMPHASIS, WINDOW, mel_filters

LOST = -(-(WINDOW + 1) // HOP) - 1
"""Hops at a sound's end in which no window begins: T hops of sound give ``T - LOST`` frames."""


class LogMelGraph(nn.Module):
    """``sound [1, T, HOP]`` -> log-mel frames ``[1, T, bins]``, of which the last ``LOST`` are silence."""

    transform: Tensor
    filters: Tensor

    def __init__(self, bins: int) -> None:
        super().__init__()
        filters = mel_filters(bins)
        heard = np.flatnonzero(filters.any(1))
        first, last = int(heard[0]), int(heard[-1]) + 1
        matrix = fourier()[first:last]
        self.register_buffer("transform", torch.from_numpy(np.concatenate((matrix.real, matrix.imag))).float())
        self.register_buffer("filters", torch.from_numpy(filters[first:last].T.copy()).float())

    def forward(self, sound: Tensor) -> Tensor:
        return self.whole(F.pad(sound, (0, 0, 0, LOST)))

    def whole(self, sound: Tensor) -> Tensor:
        """``sound [1, T, HOP]`` -> its whole windows' log-mel frames ``[1, T - LOST, bins]``."""
        frames = sound.shape[1] - LOST
        hops = [sound[:, i : i + frames] for i in range(LOST + 1)]
        windows = torch.cat((*hops[:-1], hops[-1][..., : WINDOW - LOST * HOP]), -1)
        spectrum = F.linear(windows, self.transform)
        half = self.transform.shape[0] // 2
        real, imaginary = spectrum[..., :half], spectrum[..., half:]
        magnitude = torch.sqrt(real * real + imaginary * imaginary)
        return torch.log(torch.clamp(F.linear(magnitude, self.filters), min=FLOOR))


def fourier() -> np.ndarray:
    """Pre-emphasis, window and Fourier transform of 512 samples as one complex matrix ``[FFT / 2 + 1, WINDOW]``."""
    at = np.arange(WINDOW)
    emphasis = np.eye(WINDOW) - PRE_EMPHASIS * np.eye(WINDOW, k=-1)
    emphasis[0, 0] = 1 - PRE_EMPHASIS
    window = 0.5 * (1 - np.cos(2 * np.pi * at / WINDOW))
    turn = np.exp(-2j * np.pi * np.outer(np.arange(FFT // 2 + 1), at) / FFT)
    return (turn * window) @ emphasis
