"""One lowering: everything that a backend needs to know, and the folder that it writes into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from g3n_compiler.checkpoint.tokenizer import TextTokenizer
from g3n_compiler.lower.resume import Steps
from g3n_compiler.models.gemma3n.text_config import TextConfig, own_config
from g3n_compiler.models.gemma3n.tower_config import AudioConfig, VisionConfig
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.slice.elastic import Size
from g3n_compiler.source import Source
from g3n_compiler.targets import Target

Progress = Callable[[str], None]
"""Called with a short line as each step begins."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is lowered, for which target, and where the files go."""

    source: Source
    tokenizer: TextTokenizer
    recipe: Recipe
    target: Target
    """A backend may write another graph for what the target places on an accelerator."""
    context: int
    prefill_lengths: tuple[int, ...]
    directory: Path
    progress: Progress
    resolutions: tuple[int, ...] = ()
    """Image sides to compile the vision tower for; an engine that takes one size takes the first."""
    steps_folder: Path | None = None
    """Where steps keep their files for a compile that is resumed; by default inside ``directory``."""
    sizes: tuple[Size, ...] = ()
    """Smaller sizes of an elastic bundle, each an entry point of its own over the same weights."""

    @property
    def steps(self) -> Steps:
        return Steps(self.steps_folder or self.directory / ".steps", self.progress)

    @property
    def config(self) -> TextConfig:
        return own_config(self.source.text)

    @property
    def vision(self) -> VisionConfig | None:
        """The vision tower, if it is compiled."""
        return self.source.vision if "vision" in self.source.modalities else None

    @property
    def audio(self) -> AudioConfig | None:
        """The audio tower, if it is compiled."""
        return self.source.audio if "audio" in self.source.modalities else None
