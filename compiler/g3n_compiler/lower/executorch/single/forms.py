"""What a single program is called, which methods it has and how much each takes, known before it is made."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from g3n_compiler.errors import ContextError
from g3n_compiler.lower.job import Job
from g3n_runtime.executorch.roles import ROLES
from g3n_runtime.media.mel import HOP

Form = Literal["stock", "rows"]
FORMS: tuple[Form, ...] = get_args(Form)
"""Whose calls a program answers; see :mod:`.modules`."""
ENDS = 1
"""The row that ends a picture or a sound comes with its soft tokens."""


@dataclass(frozen=True)
class SingleProgram:
    """A single program as the manifest describes it."""

    form: Form
    role: str
    methods: tuple[str, ...]
    chunk: int
    """The most tokens in one call of ``text_decoder``."""
    image_size: int | None
    """Side of the pictures that it sees, in pixels."""
    samples: int | None
    """Samples at 16 kHz of the longest sound that it hears."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"methods": list(self.methods)}


def single_program(job: Job, form: Form) -> SingleProgram:
    """The program of ``form`` for what ``job`` compiles.

    Raises:
        ContextError: its decoder would have to take more tokens at once than the context has.
    """
    rows = [] if job.audio is None else [ENDS + job.audio.max_soft_tokens]
    rows += [] if job.vision is None else [ENDS + job.vision.soft_tokens]
    # At least 2 tokens: a runner tells positions from a start position by its second input's size.
    chunk = max(2, *job.prefill_lengths)
    if form == "stock":
        # The stock prefiller gives all that an encoder made to the decoder at once.
        chunk = max([chunk, *rows])
        if chunk > job.context:
            raise ContextError(
                f"--single-pte stock gives a picture or a sound to the decoder as {chunk} rows at once, more than the "
                f"context of {job.context}: use --context {chunk} or more, or leave the towers out with "
                "--modalities text"
            )
    towers = tuple(
        name for name, tower in (("vision_encoder", job.vision), ("audio_encoder", job.audio)) if tower is not None
    )
    text = ("token_embedding", "text_decoder") if form == "stock" else ("forward", "token_embedding", "text_decoder")
    return SingleProgram(
        form,
        ROLES[form],
        (*text, *towers),
        chunk,
        None if job.vision is None else job.resolutions[0],
        None if job.audio is None else job.audio.max_soft_tokens * job.audio.frames_per_token * HOP,
    )
