"""What a backend is given, what it returns, and the registry of backends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from g3n_compiler.bundle.steps import Steps
from g3n_compiler.checkpoint.config import TextConfig
from g3n_compiler.checkpoint.multimodal import AudioConfig, Modality, VisionConfig
from g3n_compiler.checkpoint.reader import Checkpoint
from g3n_compiler.checkpoint.tokenizer import TextTokenizer
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.slice.elastic import Size
from g3n_compiler.targets import Runtime, Subgraph

Progress = Callable[[str], None]
"""Called with a short line as each step begins."""


@dataclass(frozen=True)
class Job:
    """One lowering: everything a backend needs, and the folder it writes into."""

    checkpoint: Checkpoint
    tokenizer: TextTokenizer
    recipe: Recipe
    context: int
    prefill_lengths: tuple[int, ...]
    directory: Path
    progress: Progress
    modalities: tuple[Modality, ...] = ("text",)
    resolutions: tuple[int, ...] = ()
    """Image sides to compile the vision tower for; an engine that takes one size takes the first."""
    steps_folder: Path | None = None
    """Where steps keep their files for a compile that goes on after a kill; by default inside ``directory``."""
    sizes: tuple[Size, ...] = ()
    """Smaller sizes of an elastic bundle, each an entry point of its own over the same weights."""

    @property
    def steps(self) -> Steps:
        return Steps(self.steps_folder or self.directory / ".steps", self.progress)

    @property
    def config(self) -> TextConfig:
        return self.checkpoint.text

    @property
    def vision(self) -> VisionConfig | None:
        """The vision tower, if it is compiled."""
        return self.checkpoint.vision if "vision" in self.modalities else None

    @property
    def audio(self) -> AudioConfig | None:
        """The audio tower, if it is compiled."""
        return self.checkpoint.audio if "audio" in self.modalities else None


@dataclass(frozen=True)
class Delegation:
    """What the delegate really took, measured on the lowered artifact; the rest fell back to plain kernels."""

    measured_with: str
    delegated_ops: int
    total_ops: int
    op_share: float
    flop_share: float
    fallbacks: dict[str, int]


@dataclass(frozen=True)
class LoweredFile:
    """A file of the bundle, relative to its folder."""

    path: str
    role: str


@dataclass(frozen=True)
class LoweredSubgraph:
    """A subgraph as it lies in the bundle: ``role`` is that of its file, ``digest`` the SHA-256 of its own bytes."""

    name: Subgraph
    runtime: Runtime
    role: str
    digest: str
    nbytes: int
    signatures: tuple[str, ...]
    delegation: Delegation | None


@dataclass(frozen=True)
class Lowered:
    """What a backend made."""

    files: tuple[LoweredFile, ...]
    subgraphs: tuple[LoweredSubgraph, ...]
    sizes: Mapping[str, Delegation] = field(default_factory=dict)
    """What the delegate takes of each smaller size of an elastic bundle."""


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


class Backend(TextEntry, Protocol):
    """One runtime."""

    modalities: tuple[Modality, ...]
    """What it can lower."""
    elastic: bool
    """Whether it can lower several sizes into one bundle."""

    def lower(self, job: Job) -> Lowered:
        """Write the bundle's files of this runtime into ``job.directory``."""

    def open_towers(self, directory: Path) -> Towers:
        """Open the towers that :meth:`lower` wrote, each alone."""

    def of_size(self, size: Size) -> TextEntry:
        """A smaller size of an elastic bundle; raises :class:`TargetError` where the runtime has none."""

    def verified_logits(self, directory: Path, ids: Sequence[int], prompt: int) -> np.ndarray:
        """As :meth:`TextModel.prefilled_logits` of the largest of several sizes, in the calls that verify drafts."""

    def answers(self, directory: Path, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Greedy text of a chat's first turn after each of ``prompts``, from the stock engine, unmodified."""
