"""What of a checkpoint is calibrated: the whole, or what g3n-compile would make of it by its options."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from g3n_compiler.checkpoint.identity import Inputs
from g3n_compiler.checkpoint.lora import CONFIG, TEXT_FILES, WEIGHTS, require_adapter
from g3n_compiler.checkpoint.lora_text import require_same_text
from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.errors import SliceError, TargetError
from g3n_compiler.lower.resume import Progress
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.models.shape import TextShape
from g3n_compiler.request.view import choose_view
from g3n_compiler.slice.choose import SliceOptions
from g3n_compiler.slice.elastic import FULL, Size
from g3n_compiler.source import Source


@dataclass(frozen=True)
class View:
    """What of a checkpoint is calibrated, as :class:`g3n_compiler.request.options.CompileOptions` has it."""

    size: str = ""
    slicing: SliceOptions = field(default_factory=SliceOptions)
    elastic: tuple[str, ...] | None = None
    lora: Path | None = None


WHOLE = View()


def open_view(directory: Path, view: View, inputs: Inputs, progress: Progress) -> tuple[Source, tuple[Size, ...]]:
    """The source to calibrate, and the sizes that it is divided for, largest first."""

    def remark(found: str) -> None:
        progress(f"note: {found}")

    def no_budget(shape: TextShape) -> int:
        raise TargetError("a budget depends on runtimes: pass the size that g3n-compile chose for it")

    source = Source.open(directory)
    source.checkpoint.note(inputs)
    source, _, sizes = choose_view(source, view.size, view.slicing, view.elastic, no_budget, progress)
    if sizes and source.plan is not None:
        raise SliceError(f"--elastic without {FULL}: of several sizes, one must be the whole model to be calibrated")
    if view.lora is not None:
        inputs.note(view.lora / name for name in (CONFIG, WEIGHTS, *TEXT_FILES))
        require_adapter(view.lora)
        source = source.adapted(view.lora, remark)
        require_same_text(view.lora, load_tokenizer(directory, gemma3n_config(source.text), source.modalities))
    return source.divided(sizes[0].config) if sizes else source, sizes
