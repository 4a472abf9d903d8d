"""Files of a bundle that hold the model again in another form, held against the bundle's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from g3n_compiler.lower.subgraphs import Subgraph


@dataclass(frozen=True)
class AlternateInputs:
    """What every alternate is run on."""

    ids: Sequence[int]
    prompt: int
    """How many of ``ids`` are sent as a prompt; the others go token by token."""
    question: str
    max_new_tokens: int
    image: np.ndarray | None
    """``[S, S, 3]`` uint8; ``None`` without a vision tower."""
    sound: np.ndarray | None
    """``[n]`` float32 at 16 kHz; ``None`` without an audio tower."""


@dataclass(frozen=True)
class SameNumbers:
    """Rows ``[T, N]`` of an alternate and the bundle's own."""

    what: str
    subgraph: Subgraph
    got: np.ndarray
    want: np.ndarray
    rounds: bool = False
    """Whether the two may round an activation to different steps, because they add in another order."""


@dataclass(frozen=True)
class SameText:
    """What an engine that is not ours says with an alternate, and what our loop says with the same file."""

    what: str
    got: str
    want: str
