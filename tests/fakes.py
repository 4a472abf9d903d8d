"""A backend that lowers to a plain file and computes with the eager reference: the flow without a toolchain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from g3n_compiler.checkpoint.conversations import Conversation
from g3n_compiler.checkpoint.reader import file_sha256
from g3n_compiler.lower.alternates import AlternateInputs, SameNumbers, SameText
from g3n_compiler.lower.artifact import Delegation, Files, Lowered, LoweredFile, LoweredSubgraph
from g3n_compiler.lower.job import Job
from g3n_compiler.lower.litert.memory import memory_ledger as litert_ledger
from g3n_compiler.lower.opened import LayeredModel, TextCodec, TextModel
from g3n_compiler.lower.prompts import Answers, Prompts, own_prompts
from g3n_compiler.lower.subgraphs import Runtime, Subgraph
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.verify.golden import PROMPTS
from g3n_compiler.verify.reference import Reference
from g3n_compiler.verify.vision import VisionReference


class FakeModel:
    """Answers with the reference's logits, off by ``error``."""

    def __init__(self, reference: Reference, error: float, golden: tuple[int, ...] = ()) -> None:
        self._reference, self._error, self._golden = reference, error, golden

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        return self._reference.logits(ids).numpy() * (1 + self._error)

    def prefilled_logits(self, ids: Sequence[int], prompt: int) -> np.ndarray:
        return self.logits(ids)[prompt - 1 :]

    def embeddings(self, ids: Sequence[int]) -> np.ndarray:
        return self._reference.tables.embeddings(ids)[0].numpy()

    def ple(self, ids: Sequence[int]) -> np.ndarray:
        return self._reference.tables.ple(ids).numpy().reshape(len(ids), -1)

    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        """The reference's, for the golden inputs; nano's questions stay unanswered, as it would take minutes."""
        return self._reference.greedy(ids, count)[0] if self._golden in ((), tuple(ids)) else [0] * count


VISION: tuple[Subgraph, ...] = ("vision_encoder", "vision_adapter")


class FakeVision:
    """Answers with the reference's soft tokens, off by ``error``."""

    def __init__(self, job: Job, error: float) -> None:
        assert job.vision is not None
        self.resolutions = job.resolutions
        self._reference, self._error = VisionReference(job.source, job.vision, job.recipe), error

    def embed(self, image: np.ndarray) -> np.ndarray:
        return self._reference.embed(image) * (1 + self._error)


class FakeBackend:
    """Args:
    error: relative error of the artifact's logits.
    text: what the engine says; ``None`` for the reference's own text.
    writes_to: where the artifact's bytes go, instead of into the bundle.
    """

    modalities = ("text", "vision")
    packages = ("numpy",)
    narrowest = 2
    only_one_size = None
    accelerator = None
    needs_turns = False
    takes_tools = False
    lora_ranks = ()
    single_forms = ()

    def __init__(
        self, runtime: Runtime, error: float = 0.0, text: str | None = None, writes_to: Path | None = None
    ) -> None:
        self.runtime: Runtime = runtime
        self._error, self._text, self._writes_to = error, text, writes_to
        self._job: Job | None = None

    def compile_memory(self, config: TextConfig, recipe: Recipe) -> int:
        return 0

    def memory_ledger(
        self,
        config: TextConfig,
        recipe: Recipe,
        context: int,
        prefill: int,
        subgraphs: Sequence[LoweredSubgraph],
        lora_rank: int = 0,
    ) -> dict[str, Any]:
        return litert_ledger(config, recipe, context, prefill, subgraphs, lora_rank)

    def manifest_fields(self, job: Job, lowered: Lowered) -> dict[str, Any]:
        return {}

    def require_possible(self, job: Job) -> None:
        pass

    def alternates(self, job: Job, inputs: AlternateInputs) -> Iterator[SameNumbers | SameText]:
        return iter(())

    def lower(self, job: Job) -> Lowered:
        self._job = job
        name = f"{self.runtime}.bin"
        path = job.directory / name
        (self._writes_to or path).write_bytes(b"weights" * 1000)
        (job.directory / "tokenizer.json").write_bytes(job.tokenizer.json_path.read_bytes())
        digest = file_sha256(path)
        delegation = Delegation("fake", 9, 10, 0.9, 0.99, {"GATHER": 1})
        towers = (
            LoweredSubgraph(subgraph, self.runtime, f"{self.runtime}_model", digest, 500, (subgraph,), delegation)
            for subgraph in (VISION if job.vision else ())
        )
        return Lowered(
            (LoweredFile(name, f"{self.runtime}_model"), LoweredFile("tokenizer.json", "tokenizer")),
            (
                *towers,
                LoweredSubgraph("core", self.runtime, f"{self.runtime}_model", digest, 7000, ("decode",), delegation),
                LoweredSubgraph(
                    "token_embedding", self.runtime, f"{self.runtime}_model", digest, 10, ("lookup",), None
                ),
                LoweredSubgraph(
                    "per_layer_embedding", self.runtime, f"{self.runtime}_model", digest, 10, ("lookup",), None
                ),
            ),
        )

    def open_models(self, files: Files) -> Iterator[tuple[str, TextModel]]:
        assert self._job is not None
        golden = tuple(self._job.tokenizer.chat(PROMPTS[0]))
        yield "fake", FakeModel(Reference(self._job.source, self._job.recipe), self._error, golden)

    def open_layers(self, files: Files, config: TextConfig) -> dict[str, LayeredModel]:
        return {}

    def open_tokenizer(self, files: Files) -> TextCodec:
        assert self._job is not None
        return self._job.tokenizer.loaded()

    def open_vision(self, files: Files) -> FakeVision | None:
        assert self._job is not None
        return None if self._job.vision is None else FakeVision(self._job, self._error)

    def open_audio(self, files: Files) -> None:
        return None

    def prompts(self, job: Job, conversations: Sequence[Conversation]) -> Prompts:
        return own_prompts(job, conversations, job.tokenizer.loaded().encode)

    def answers(
        self, job: Job, prompts: Sequence[str], max_new_tokens: int, conversations: Sequence[Conversation]
    ) -> Answers:
        assert self._job is not None
        tokenizer, reference = self._job.tokenizer, Reference(self._job.source)
        said = [tokenizer.decode(reference.greedy(tokenizer.chat(p), max_new_tokens)[0]) for p in prompts]
        said = said if self._text is None else [self._text] * len(prompts)
        return Answers(said, self.prompts(job, conversations))
