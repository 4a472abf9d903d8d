"""What a backend wrote, opened under its own runtime, as verification sees it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from g3n_compiler.lower.subgraphs import Runtime
from g3n_compiler.models.gemma3n.text_config import TextConfig


class TextModel(Protocol):
    """An emitted bundle under its stock runtime, as verification sees it."""

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Teacher-forced logits ``[T, vocab]`` float32, every position through decode."""

    def prefilled_logits(self, ids: Sequence[int], prompt: int) -> np.ndarray:
        """Logits ``[T - prompt + 1, vocab]`` from ``prompt - 1`` on, the prompt going as the engine sends it."""

    def embeddings(self, ids: Sequence[int]) -> np.ndarray:
        """Rows of the emitted token embedding ``[T, hidden]``, scaled."""

    def ple(self, ids: Sequence[int]) -> np.ndarray:
        """Rows of the emitted per-layer embedding ``[T, layers * ple_dim]``, scaled."""

    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        """``count`` greedy tokens after the prompt ``ids``."""


class LayeredModel(Protocol):
    """An emitted model whose decoder can be run layer by layer, with no more than a layer of it in memory."""

    def embeddings(self, ids: Sequence[int]) -> np.ndarray:
        """As :meth:`TextModel.embeddings`."""

    def ple(self, ids: Sequence[int]) -> np.ndarray:
        """Rows of the emitted per-layer embedding ``[T, layers, ple_dim]``, scaled."""

    def run(self, embeddings: np.ndarray, ple: np.ndarray, prompt: int) -> Iterator[np.ndarray]:
        """What each layer hands on, then the logits.

        The first ``prompt`` tokens go the way of a prompt, as :meth:`TextModel.prefilled_logits` sends them, the rest
        token by token through decode.

        Args:
            embeddings: ``[T, hidden]`` float32, scaled.
            ple: ``[T, layers, ple_dim]`` float32, scaled.

        Yields:
            AltUp's streams ``[T, n, hidden]`` after each layer below the last owner of keys and values,
            ``[T - prompt + 1, n, hidden]`` after it and each layer above, at last logits ``[T - prompt + 1, vocab]``.
        """


class VisionModel(Protocol):
    """An emitted vision tower under its stock runtime, as verification sees it."""

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Image sides that it takes."""

    def embed(self, image: np.ndarray) -> np.ndarray:
        """Soft tokens in the text space and the end-of-image row ``[T + 1, hidden]`` of ``image [S, S, 3]`` in 0..1."""

    def steps(self, image: np.ndarray) -> Iterable[np.ndarray]:
        """What the stem and each block gave ``[1, H, W, C]``, the features ``[1, T, width]``, then :meth:`embed`'s."""


class StreamTrace(NamedTuple):
    """One step of a stream, as the artifact computed it; the state is in the order of ``state_shapes``."""

    mel: np.ndarray
    mask: np.ndarray
    before: list[np.ndarray]
    frames: list[np.ndarray]
    """What entered each layer, ``[1, T, hidden]``."""
    token: np.ndarray
    """``[hidden]``."""
    after: list[np.ndarray]


class AudioModel(Protocol):
    """An emitted audio tower under its stock runtime, as verification sees it."""

    def clip(self, sound: np.ndarray) -> np.ndarray:
        """Soft tokens in the text space ``[N, hidden]`` of ``sound [n]`` at 16 kHz, filled up to the longest clip's."""

    def stream(self, sound: np.ndarray) -> np.ndarray:
        """Soft tokens ``[N, hidden]`` of a sound of any length, made step by step."""

    def clip_steps(self, sound: np.ndarray) -> Iterable[np.ndarray]:
        """What entered each layer and left the last ``[T, hidden]``, then :meth:`clip`'s.

        Frames and features past the sound's end may be anything.
        """

    def stream_steps(self, sound: np.ndarray) -> Iterator[StreamTrace]:
        """The steps of :meth:`stream`."""

    def end(self) -> np.ndarray:
        """The end-of-audio row ``[1, hidden]``."""


@dataclass(frozen=True)
class Towers:
    """The emitted towers; ``None`` where a bundle has none."""

    vision: VisionModel | None = None
    audio: AudioModel | None = None


class TextEntry(Protocol):
    """The text model of a bundle under one runtime, or one of its sizes, as verification opens it."""

    runtime: Runtime

    def open_models(self, directory: Path) -> Iterator[tuple[str, TextModel]]:
        """Open what was written, for parity: a model for each way an engine may enter it, with its name.

        One at a time, as they are asked for: a large one may fill the memory.
        """

    def open_layers(self, directory: Path, config: TextConfig) -> Mapping[str, LayeredModel]:
        """As :meth:`open_models`, to be run layer by layer; empty where the runtime cannot."""
