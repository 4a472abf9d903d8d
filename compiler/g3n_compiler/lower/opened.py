"""What a backend wrote, opened in its own runtime for verification."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from g3n_compiler.lower.artifact import Files
from g3n_compiler.lower.subgraphs import Runtime
from g3n_compiler.models.gemma3n.text_config import TextConfig


class TextModel(Protocol):
    """A lowered text model in its stock runtime, as verification sees it."""

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Teacher-forced logits ``[T, vocab]`` float32; every position goes through decode."""

    def prefilled_logits(self, ids: Sequence[int], prompt: int) -> np.ndarray:
        """Logits ``[T - prompt + 1, vocab]`` from position ``prompt - 1`` on; the prompt is sent as the engine sends
        it.
        """

    def embeddings(self, ids: Sequence[int]) -> np.ndarray:
        """Rows of the lowered token embedding ``[T, hidden]``, scaled."""

    def ple(self, ids: Sequence[int]) -> np.ndarray:
        """Rows of the lowered per-layer embedding ``[T, layers * ple_dim]``, scaled."""

    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        """``count`` greedy tokens after the prompt ``ids``."""


class TextCodec(Protocol):
    """A bundle's tokenizer, as its runtime reads it."""

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, without bos."""

    def decode(self, ids: list[int]) -> str:
        """The text of ``ids``."""


class LayeredModel(Protocol):
    """A lowered model whose decoder can be run layer by layer, with at most one layer of it in memory."""

    def embeddings(self, ids: Sequence[int]) -> np.ndarray:
        """As :meth:`TextModel.embeddings`."""

    def ple(self, ids: Sequence[int]) -> np.ndarray:
        """Rows of the lowered per-layer embedding ``[T, layers, ple_dim]``, scaled."""

    def run(self, embeddings: np.ndarray, ple: np.ndarray, prompt: int) -> Iterator[np.ndarray]:
        """The output of each layer, then the logits.

        The first ``prompt`` tokens are sent as a prompt, as in :meth:`TextModel.prefilled_logits`; the rest go token by
        token through decode.

        Args:
            embeddings: ``[T, hidden]`` float32, scaled.
            ple: ``[T, layers, ple_dim]`` float32, scaled.

        Yields:
            AltUp's streams: ``[T, n, hidden]`` after each layer below the last KV owner, ``[T - prompt + 1, n,
            hidden]`` after it and each layer above; finally the logits ``[T - prompt + 1, vocab]``.
        """


class VisionModel(Protocol):
    """A lowered vision tower in its stock runtime, as verification sees it."""

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The image sides that it accepts."""

    def embed(self, image: np.ndarray) -> np.ndarray:
        """Soft tokens in the text model's space and the end-of-image row ``[T + 1, hidden]``, for ``image [S, S, 3]``
        in 0..1.
        """

    def steps(self, image: np.ndarray) -> Iterable[np.ndarray]:
        """The output of the stem and of each block ``[1, H, W, C]``, the features ``[1, T, width]``, then the result of
        :meth:`embed`.
        """


class StreamTrace(NamedTuple):
    """One step of a stream, as the artifact computed it; the state is in the order of ``state_shapes``."""

    mel: np.ndarray
    mask: np.ndarray
    before: list[np.ndarray]
    frames: list[np.ndarray]
    """The input of each layer, ``[1, T, hidden]``."""
    tokens: np.ndarray
    """``[N, hidden]``."""
    after: list[np.ndarray]


class AudioModel(Protocol):
    """A lowered audio tower in its stock runtime, as verification sees it."""

    def clip(self, sound: np.ndarray) -> np.ndarray:
        """Soft tokens in the text model's space ``[N, hidden]`` for ``sound [n]`` at 16 kHz, padded to the longest
        clip's number.
        """

    def stream(self, sound: np.ndarray) -> np.ndarray:
        """Soft tokens ``[N, hidden]`` of a sound of any length, computed step by step."""

    def clip_steps(self, sound: np.ndarray) -> Iterable[np.ndarray]:
        """The input of each layer and the output of the last ``[T, hidden]``, then the result of :meth:`clip`.

        Frames and features past the sound's end are undefined.
        """

    def stream_steps(self, sound: np.ndarray) -> Iterator[StreamTrace]:
        """The steps of :meth:`stream`."""

    def end(self) -> np.ndarray:
        """The end-of-audio row ``[1, hidden]``."""


OpenVision = Callable[[], VisionModel | None]
OpenAudio = Callable[[], AudioModel | None]
"""Opens a tower that a runtime should have, or finds that it lacks it."""


class TextEntry(Protocol):
    """The text model of a bundle in one runtime, or one of its sizes, as verification opens it."""

    runtime: Runtime

    def open_models(self, files: Files) -> Iterator[tuple[str, TextModel]]:
        """Open what was lowered: a model, with its name, for each entry point that an engine may use.

        They are opened one at a time, as the caller asks for them: a large one may fill the memory.
        """

    def open_layers(self, files: Files, config: TextConfig) -> Mapping[str, LayeredModel]:
        """As :meth:`open_models`, to be run layer by layer; empty if the runtime cannot do that."""
