"""What a bundle's subgraphs compute on an accelerator of the compiling machine, to compare it with the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from g3n_compiler.lower.arm64_kit import Text
from g3n_compiler.lower.artifact import Files
from g3n_compiler.lower.opened import LayeredModel


@dataclass(frozen=True, kw_only=True)
class AcceleratorRun:
    """What is to be computed; it travels to another process."""

    files: Files
    texts: Sequence[Text]
    prompts: Sequence[str]
    """Questions for the stock engine."""
    max_new_tokens: int
    """Of each answer."""
    layers: Text | None = None
    """A text to run layer by layer. A model that is too large to be run whole gets no ``texts`` and ``prompts``."""
    only: tuple[int, ...] | None = None
    """The layers that the accelerator runs, besides the head; all by default. The CPU runs the others."""
    images: Mapping[int, np.ndarray] = field(default_factory=dict)
    """Pictures ``[S, S, 3]`` in 0..1 by their side; none where the vision encoder is not on the accelerator."""


@dataclass(frozen=True)
class AcceleratorOutputs:
    """What the accelerator computed."""

    logits: list[np.ndarray]
    """Of each text, ``[T, vocab]``: every token through decode."""
    prefilled: list[np.ndarray]
    """Of each text, from its prompt's last token on: what comes before it went through prefill."""
    answers: list[str]
    layers: LayeredModel | None
    """What the layers computed of that text: it can be run on that text only."""
    images: dict[int, np.ndarray]
    """Soft tokens and the end row ``[T + 1, hidden]`` of each picture, by its side."""
