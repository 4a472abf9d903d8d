"""One lowering: everything that a backend needs to know, and the folder that it writes to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from g3n_compiler.checkpoint.tokenizer import TextTokenizer
from g3n_compiler.lower.artifact import Files
from g3n_compiler.lower.prompts import SoftTokenIds
from g3n_compiler.lower.resume import Steps
from g3n_compiler.models.gemma3n.text_config import TextConfig, gemma3n_config
from g3n_compiler.models.gemma3n.tower_config import AudioConfig, VisionConfig
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.slice.elastic import Size
from g3n_compiler.source import Source
from g3n_compiler.targets import Target

Progress = Callable[[str], None]
"""Called with a short line when a step begins."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is lowered, for which target, and where the files go."""

    source: Source
    tokenizer: TextTokenizer
    recipe: Recipe
    target: Target
    """A backend may write a different graph for what the target places on an accelerator."""
    context: int
    prefill_lengths: tuple[int, ...]
    directory: Path
    progress: Progress
    stem: str = "model"
    """Begins the names of the files that people move into other apps."""
    files: Files = field(default_factory=dict)
    """What has been lowered, as it lies in ``directory``."""
    resolutions: tuple[int, ...] = ()
    """Image sides to compile the vision tower for; an engine that takes only one size takes the first."""
    tools: bool = False
    """Whether the file is to be one whose calls of tools its engine reads."""
    single: tuple[str, ...] = ()
    """Forms of ExecuTorch programs that hold the whole model, besides the bundle's own."""
    accelerator: str | None = None
    """What of this machine runs the subgraphs that the target places on an accelerator, to compare them."""
    steps_folder: Path | None = None
    """Where steps keep their files so that an interrupted compile can resume; by default inside ``directory``."""
    lora_rank: int = 0
    """Rank of the LoRA adapters that the engine can add while it runs; 0 if it can add none."""
    sizes: tuple[Size, ...] = ()
    """Smaller sizes of an elastic bundle, each an entry point of its own to the same weights."""

    @property
    def steps(self) -> Steps:
        return Steps(self.steps_folder or self.directory / ".steps", self.progress)

    @property
    def config(self) -> TextConfig:
        return gemma3n_config(self.source.text)

    @property
    def soft_tokens(self) -> dict[str, SoftTokenIds]:
        """The ids of the media that the bundle accepts, by the type of their parts in a message."""
        out = {}
        if (vision := self.vision) is not None:
            out["image"] = SoftTokenIds(vision.boi_id, vision.image_id, vision.eoi_id)
        if (audio := self.audio) is not None:
            out["audio"] = SoftTokenIds(audio.begin_id, audio.soft_id, audio.end_id)
        return out

    @property
    def vision(self) -> VisionConfig | None:
        """The vision tower, if it is compiled."""
        return self.source.vision if "vision" in self.source.modalities else None

    @property
    def audio(self) -> AudioConfig | None:
        """The audio tower, if it is compiled."""
        return self.source.audio if "audio" in self.source.modalities else None
