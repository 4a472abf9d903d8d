"""The ExecuTorch backend: a ``.pte``, a ``.ptd`` and ``tokenizer.json`` for the stock LLM runner, and the towers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from g3n_compiler.checkpoint.conversations import Conversation
from g3n_compiler.checkpoint.reader import file_sha256
from g3n_compiler.checkpoint.tokenizer_json import for_executorch
from g3n_compiler.errors import EngineError, TargetError
from g3n_compiler.lower.accelerator import AcceleratorOutputs, AcceleratorRun
from g3n_compiler.lower.alternates import AlternateInputs, SameNumbers, SameText
from g3n_compiler.lower.arm64_kit import ArmRun, Outputs
from g3n_compiler.lower.artifact import Files, Lowered, LoweredFile, LoweredSubgraph
from g3n_compiler.lower.executorch.arm64 import run_on_arm
from g3n_compiler.lower.executorch.layers import PROBE, ProbedLayers
from g3n_compiler.lower.executorch.memory import compile_memory, memory_ledger
from g3n_compiler.lower.executorch.single.forms import FORMS, Form, single_program
from g3n_compiler.lower.job import Job
from g3n_compiler.lower.opened import AudioModel, LayeredModel, TextCodec, TextEntry, TextModel, VisionModel
from g3n_compiler.lower.prompts import Answers, Prompts, own_prompts
from g3n_compiler.lower.subgraphs import Runtime, Subgraph
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.models.weights import Adapted
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.slice.elastic import Size
from g3n_compiler.source import MODALITIES
from g3n_runtime.chat import GREEDY
from g3n_runtime.executorch.chat import ExecuTorchChat
from g3n_runtime.executorch.model import ExecuTorchModel, ExecuTorchParts
from g3n_runtime.executorch.roles import ROLES
from g3n_runtime.executorch.tokenizer import Vocabulary

if TYPE_CHECKING:
    from g3n_compiler.lower.executorch.text import ExecuTorchArtifacts, MethodName

TOKENIZER = "tokenizer.json"
"""Keeps the name by which tokenizer libraries look for it."""
ENTRY_POINTS: tuple[MethodName, ...] = ("text_decoder", "forward")
"""Methods that return logits. Our loop uses the first and looks up embedding rows itself, so that the rest of the
tables never becomes resident; the stock text runner calls ``forward``. The file contains the weights once."""
TABLE_OF: dict[Subgraph, str] = {
    "token_embedding": "embed_tokens",
    "per_layer_embedding": "embed_tokens_per_layer",
}


class ExecuTorchBackend:
    """See :class:`g3n_compiler.lower.backend.Backend`."""

    runtime: Runtime = "executorch"
    modalities = MODALITIES
    packages = ("torch", "executorch", "numpy")
    narrowest = 4
    only_one_size = (
        "ExecuTorch bundles hold one size: each entry point of a program has caches of its own inside it, so one size "
        "could not take over from another"
    )

    accelerator = None
    needs_turns = True
    takes_tools = False
    lora_ranks = ()
    single_forms = FORMS

    def compile_memory(self, config: TextConfig, recipe: Recipe) -> int:
        return compile_memory(config, recipe)

    def memory_ledger(
        self,
        config: TextConfig,
        recipe: Recipe,
        context: int,
        prefill: int,
        subgraphs: Sequence[LoweredSubgraph],
        lora_rank: int = 0,
    ) -> dict[str, Any]:
        return memory_ledger(config, recipe, context, prefill, subgraphs)

    def require_possible(self, job: Job) -> None:
        for form in _forms(job):
            single_program(job, form)

    def lower(self, job: Job) -> Lowered:
        # The toolchain takes seconds to import, which a mistake in the checkpoint need not wait for.
        from g3n_compiler.lower.executorch.text import MODEL, TABLES, lower_text
        from g3n_compiler.lower.executorch.towers import lower_towers

        steps = job.steps
        made = lower_text(
            job.config,
            job.source.read,
            job.recipe,
            job.context,
            steps,
            # At least 2 tokens: the runner tells positions from a start position by its second input's size.
            chunk=max(2, *job.prefill_lengths),
            methods=(*ENTRY_POINTS, PROBE),
            stop_ids=job.tokenizer.stop_ids,
            head_shares_table=job.source.hard_token_rows is None,
            keep_weights=bool(job.single),
            progress=lambda line: job.progress(f"executorch: {line}"),
        )
        program, data = f"{job.stem}.pte", f"{job.stem}.ptd"
        steps.publish(MODEL, job.directory / program)
        steps.publish(TABLES, job.directory / data)
        (job.directory / TOKENIZER).write_bytes(_tokenizer(job))
        core = LoweredSubgraph(
            "core",
            self.runtime,
            ROLES["model"],
            file_sha256(made.model),
            made.model.stat().st_size,
            ENTRY_POINTS,
            made.delegation,
        )
        tables = (
            LoweredSubgraph(
                subgraph,
                self.runtime,
                ROLES["tables"],
                made.file.digests[table],
                made.file.layouts[table].rows * made.file.layouts[table].row_bytes,
                (),
                None,
            )
            for subgraph, table in TABLE_OF.items()
        )
        files = (
            LoweredFile(program, ROLES["model"]),
            LoweredFile(data, ROLES["tables"]),
            LoweredFile(TOKENIZER, ROLES["tokenizer"]),
        )
        tower_files, towers = lower_towers(job)
        singles = _lower_single(job, made)
        return Lowered((*files, *tower_files, *singles), (core, *tables, *towers))

    def open_models(self, files: Files) -> Iterator[tuple[str, TextModel]]:
        parts = _parts(files)
        for method in ENTRY_POINTS:
            yield method, ExecuTorchModel(parts, method)

    def open_layers(self, files: Files, config: TextConfig) -> dict[str, LayeredModel]:
        return {PROBE: ProbedLayers(_parts(files), config)}

    def open_tokenizer(self, files: Files) -> TextCodec:
        return Vocabulary(files[ROLES["tokenizer"]])

    def open_vision(self, files: Files) -> VisionModel | None:
        from g3n_compiler.lower.executorch.towers import open_vision

        return open_vision(files)

    def open_audio(self, files: Files) -> AudioModel | None:
        from g3n_compiler.lower.executorch.towers import open_audio

        return open_audio(files)

    def manifest_fields(self, job: Job, lowered: Lowered) -> dict[str, Any]:
        if not job.single:
            return {}
        return {"single_pte": [single_program(job, form).as_json() for form in _forms(job)]}

    def alternates(self, job: Job, inputs: AlternateInputs) -> Iterator[SameNumbers | SameText]:
        from g3n_compiler.lower.executorch.single.compare import compare_single

        return compare_single(job, inputs)

    def of_size(self, size: Size) -> TextEntry:
        raise TargetError(self.only_one_size)

    def with_adapter(self, adapter: Mapping[str, Adapted], rank: int) -> TextEntry:
        raise TargetError("the stock ExecuTorch runner adds no adapter while it runs: merge it with --lora")

    def verified_logits(self, files: Files, ids: Sequence[int], prompt: int) -> np.ndarray:
        raise TargetError(self.only_one_size)

    def prompts(self, job: Job, conversations: Sequence[Conversation]) -> Prompts:
        with tempfile.TemporaryDirectory(prefix="g3n-prompts-") as folder:
            path = Path(folder) / TOKENIZER
            path.write_bytes(_tokenizer(job))
            return own_prompts(job, conversations, Vocabulary(path).encode)

    def answers(
        self, job: Job, prompts: Sequence[str], max_new_tokens: int, conversations: Sequence[Conversation]
    ) -> Answers:
        chat = ExecuTorchChat(_parts(job.files), job.tokenizer.template)
        texts = []
        for prompt in prompts:
            texts.append("".join(chat.send(prompt, GREEDY, max_new_tokens)))
            chat.reset()
        return Answers(texts, own_prompts(job, conversations, Vocabulary(job.files[ROLES["tokenizer"]]).encode))

    def run_on_accelerator(self, job: Job, run: AcceleratorRun) -> AcceleratorOutputs:
        raise EngineError("an ExecuTorch bundle has nothing that an accelerator of this machine could run")

    def run_on_arm(self, run: ArmRun) -> Outputs:
        program, tables = run.bundle.file(ROLES["model"]), run.bundle.file(ROLES["tables"])
        reader = run.model if run.entry == ENTRY_POINTS[0] else None
        return run_on_arm(run.kit, program, tables, run.entry, reader, run.texts, run.greedy, run.scratch)


def _forms(job: Job) -> list[Form]:
    """The forms of single programs that ``job`` asks for."""
    return [form for form in FORMS if form in job.single]


def _lower_single(job: Job, made: ExecuTorchArtifacts) -> list[LoweredFile]:
    """Write the single programs that ``job`` asks for."""
    from g3n_compiler.lower.executorch.single.program import SingleWriter

    steps, files, writer = job.steps, list[LoweredFile](), SingleWriter(job, made.tables, made.file)
    for form in _forms(job):
        name, what = f"{form}.pte", f"executorch: lowering all into one program, {form}"
        steps.file(name, partial(writer.write, form), what)
        files.append(LoweredFile(f"{job.stem}-{form}.pte", ROLES[form]))
        steps.publish(name, job.directory / files[-1].path)
    if files:
        writer.forget_weights()
    return files


def _tokenizer(job: Job) -> bytes:
    """The tokenizer's file, as the runner must have it."""
    return for_executorch(job.tokenizer.json_path, job.config.vocab_size)


def _parts(files: Files) -> ExecuTorchParts:
    return ExecuTorchParts(files[ROLES["model"]], files[ROLES["tables"]], files[ROLES["tokenizer"]])
