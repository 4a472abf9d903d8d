"""What the user asked for, as it was typed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from g3n_compiler.bundle.signing import SigningKey
from g3n_compiler.checkpoint.hub_id import Named
from g3n_compiler.slice.choose import SliceOptions


@dataclass(frozen=True)
class CompileOptions:
    """What the user asked for; ``None`` means the default of the target or of the model."""

    target: str = "host"
    size: str | None = None
    checkpoint: Named | None = None
    runtime: str | None = None
    recipe: str = "int4"
    context: int | None = None
    prefill_lengths: tuple[int, ...] | None = None
    modalities: tuple[str, ...] | None = None
    resolutions: tuple[int, ...] | None = None
    lora: Named | None = None
    soc: str | None = None
    out: Path | None = None
    command: str = ""
    slicing: SliceOptions = field(default_factory=SliceOptions)
    elastic: tuple[str, ...] | None = None
    sign: SigningKey | None = None
    force: bool = False
    """Compile also what is up to date."""
    require_accelerator: bool = False
    """Refuse to compile where nothing can run what the target places on an accelerator."""
    held_texts: Path | None = None
    """A file of texts to measure the loss of rounding on."""
    max_loss: float | None = None
    """Refuse a bundle that loses more of the perplexity: 0.03 for 3%."""
    max_size: str | None = None
    """Refuse a bundle whose files for one runtime are larger, such as ``2.5GB``."""
    tools: bool = False
    """Make the file one whose calls of tools LiteRT-LM reads."""
    lora_rank: int | None = None
    """Let the engine add LoRA adapters of this rank while it runs."""
    single: tuple[str, ...] = ()
    """Forms in which the whole model is written once more, as one ExecuTorch program each."""
