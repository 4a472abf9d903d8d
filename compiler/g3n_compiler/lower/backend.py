"""The contract of a backend: one runtime, and everything that the compiler needs to know about it.

Nothing outside a backend's folder checks which runtime it is dealing with. A new backend is a folder beside ``litert``
and ``executorch`` and one line in :mod:`g3n_compiler.lower.registry`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from g3n_compiler.checkpoint.conversations import Conversation
from g3n_compiler.lower.accelerator import AcceleratorOutputs, AcceleratorRun
from g3n_compiler.lower.alternates import AlternateInputs, SameNumbers, SameText
from g3n_compiler.lower.arm64_kit import ArmRun, Outputs
from g3n_compiler.lower.artifact import Files, Lowered, LoweredSubgraph
from g3n_compiler.lower.job import Job
from g3n_compiler.lower.opened import AudioModel, TextCodec, TextEntry, VisionModel
from g3n_compiler.lower.prompts import Answers, Prompts
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.models.weights import Adapted
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.slice.elastic import Size


class Backend(TextEntry, Protocol):
    """One runtime."""

    @property
    def modalities(self) -> Sequence[str]:
        """The modalities that it can lower."""

    @property
    def packages(self) -> Sequence[str]:
        """Distributions whose versions decide the bytes that it writes."""

    @property
    def narrowest(self) -> int:
        """The fewest bits of a matrix that it has kernels for."""

    @property
    def only_one_size(self) -> str | None:
        """Why a bundle of this runtime cannot hold several sizes; ``None`` if it can."""

    @property
    def needs_turns(self) -> bool:
        """Whether the app writes this runtime's prompts itself, for which it has no Jinja."""

    @property
    def takes_tools(self) -> bool:
        """Whether a file can be made whose tool calls the stock engine reads."""

    @property
    def lora_ranks(self) -> Sequence[int]:
        """Ranks of the LoRA adapters that the stock engine can add while it runs, ascending; none if it cannot."""

    @property
    def single_forms(self) -> Sequence[str]:
        """The forms in which it writes the whole model as one file more; see ``--single-pte``."""

    @property
    def accelerator(self) -> str | None:
        """What of this machine runs the subgraphs that a target places on an accelerator; ``None`` if nothing does."""

    def compile_memory(self, config: TextConfig, recipe: Recipe) -> int:
        """Peak bytes that lowering and comparing take, beyond the toolchain itself."""

    def memory_ledger(
        self,
        config: TextConfig,
        recipe: Recipe,
        context: int,
        prefill: int,
        subgraphs: Sequence[LoweredSubgraph],
        lora_rank: int = 0,
    ) -> dict[str, Any]:
        """The memory that a bundle takes on a device, by part and by phase; the manifest's schema defines its form.

        Args:
            prefill: the longest chunk of a prompt.
            subgraphs: those of this runtime.
            lora_rank: of the adapters that the engine can add; 0 if it can add none.
        """

    def prompts(self, job: Job, conversations: Sequence[Conversation]) -> Prompts:
        """What this runtime will make of conversations, seen before anything is lowered.

        Raises:
            TokenizerError: it cannot render the checkpoint's template.
        """

    def require_possible(self, job: Job) -> None:
        """Refuse what only this runtime knows that it cannot lower, before the weights are read.

        Raises:
            G3nError: what does not go together, and what to do.
        """

    def lower(self, job: Job) -> Lowered:
        """Write this runtime's files of the bundle into ``job.directory``; their names begin with ``job.stem``."""

    def manifest_fields(self, job: Job, lowered: Lowered) -> dict[str, Any]:
        """Top-level fields of the manifest that can only be read from this runtime's files, ``job.files``."""

    def alternates(self, job: Job, inputs: AlternateInputs) -> Iterator[SameNumbers | SameText]:
        """Everything that a file which holds the model once more gives, beside what the bundle's own files give."""

    def open_tokenizer(self, files: Files) -> TextCodec:
        """Open the tokenizer that :meth:`lower` wrote."""

    def open_vision(self, files: Files) -> VisionModel | None:
        """Open the vision tower that :meth:`lower` wrote."""

    def open_audio(self, files: Files) -> AudioModel | None:
        """Open the audio tower that :meth:`lower` wrote."""

    def of_size(self, size: Size) -> TextEntry:
        """A smaller size of an elastic bundle.

        Raises:
            TargetError: the runtime has none.
        """

    def with_adapter(self, adapter: Mapping[str, Adapted], rank: int) -> TextEntry:
        """What was lowered for adapters of ``rank``, with one of at most that, by the names of weights.

        Raises:
            TargetError: the runtime adds none.
        """

    def verified_logits(self, files: Files, ids: Sequence[int], prompt: int) -> np.ndarray:
        """Logits of the largest of several sizes, computed by the calls that verify drafts.

        Shapes are those of :meth:`g3n_compiler.lower.opened.TextModel.prefilled_logits`.
        """

    def answers(
        self, job: Job, prompts: Sequence[str], max_new_tokens: int, conversations: Sequence[Conversation]
    ) -> Answers:
        """What the unmodified stock engine makes of ``prompts`` and ``conversations``, with the files of ``job``."""

    def run_on_accelerator(self, job: Job, run: AcceleratorRun) -> AcceleratorOutputs:
        """What :attr:`accelerator` computes of ``job``, which was lowered.

        Raises:
            EngineError: it refuses what was lowered.
        """

    def run_on_arm(self, run: ArmRun) -> Outputs:
        """What the official aarch64 runtime computes, emulated."""
