"""The LiteRT backend: TFLite models packed into one ``.litertlm`` for the stock LiteRT-LM engine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from g3n_compiler.checkpoint.conversations import Conversation
from g3n_compiler.heap import release_free_memory
from g3n_compiler.lower.accelerator import AcceleratorOutputs, AcceleratorRun
from g3n_compiler.lower.alternates import AlternateInputs, SameNumbers, SameText
from g3n_compiler.lower.arm64_kit import ArmRun, Outputs
from g3n_compiler.lower.artifact import Delegation, Files, Lowered, LoweredFile, LoweredSubgraph
from g3n_compiler.lower.isolated import isolated
from g3n_compiler.lower.job import Job
from g3n_compiler.lower.litert.adapters import LiteRtAdapted, lower_adapters
from g3n_compiler.lower.litert.arm64 import run_on_arm
from g3n_compiler.lower.litert.bind_weights import bind
from g3n_compiler.lower.litert.container import (
    SectionKind,
    View,
    entry_points,
    find_section,
    section_digest,
    write_litertlm,
)
from g3n_compiler.lower.litert.context import full_cache_length, usable_context
from g3n_compiler.lower.litert.delegation import measure
from g3n_compiler.lower.litert.elastic import LiteRtSize, measure_sizes, signature_groups
from g3n_compiler.lower.litert.engine_tokenizer import engine_tokenizer
from g3n_compiler.lower.litert.file_headers import find_file_headers, write_file_headers
from g3n_compiler.lower.litert.gpu import run_on_gpu, usable_driver
from g3n_compiler.lower.litert.gpu_operators import require_gpu_operators
from g3n_compiler.lower.litert.memory import compile_memory, memory_ledger
from g3n_compiler.lower.litert.metadata import executor_metadata, llm_metadata
from g3n_compiler.lower.litert.opened import SECTIONS, OpenedLayers, OpenedTextModel, open_tokenizer, verified_logits
from g3n_compiler.lower.litert.prompts import engine_prompts, engine_template, rendered
from g3n_compiler.lower.litert.tables import write_ple_embedder, write_token_embedder
from g3n_compiler.lower.litert.text import convert
from g3n_compiler.lower.litert.towers import lower_towers, media_of, open_audio, open_vision
from g3n_compiler.lower.litert.wrapped_template import wrapped
from g3n_compiler.lower.opened import AudioModel, LayeredModel, TextCodec, TextEntry, TextModel, VisionModel
from g3n_compiler.lower.prompts import Answers, Prompts
from g3n_compiler.lower.resume import Steps
from g3n_compiler.lower.signatures.text import DECODE, prefill_name
from g3n_compiler.lower.subgraphs import Runtime, Subgraph
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.models.registry import core_parameter_count, text_weights
from g3n_compiler.models.weights import Adapted
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.slice.elastic import Size
from g3n_compiler.source import MODALITIES
from g3n_runtime.chat import GREEDY
from g3n_runtime.litert.elastic_names import ELASTIC_VIEW
from g3n_runtime.litert.engine import LiteRtEngine
from g3n_runtime.litert.lora import NO_ADAPTER

P = ParamSpec("P")
T = TypeVar("T")
MODEL = "model.litertlm"
"""What the step is called that packs the file."""
GRAPH = "graph.tflite"
LARGE_PARAMETERS = 100_000_000
"""From this many core parameters on, the graph is converted and measured in separate processes."""
DELEGATION = "delegation.json"
TOWERS = "towers.json"
SIZES = "sizes.json"
ROLE = "litertlm"
IN_FLOAT32: tuple[SectionKind, ...] = ("prefill_decode",)
"""The decoder's norms overflow float16 (docs/gpu.md). Any bundle may be put on a GPU by an app, whatever its target."""


class LiteRtBackend:
    """See :class:`g3n_compiler.lower.backend.Backend`."""

    runtime: Runtime = "litert"
    modalities = MODALITIES
    packages = ("torch", "litert-torch", "ai-edge-litert", "litert-lm", "numpy", "sentencepiece")
    narrowest = 2
    only_one_size = None
    needs_turns = False
    takes_tools = True
    lora_ranks = (16, 32)
    """LiteRT-LM 0.18.1 refuses others when it reads an adapter's file."""
    single_forms = ()

    @property
    def accelerator(self) -> str | None:
        return usable_driver()

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
        return memory_ledger(config, recipe, context, prefill, subgraphs, lora_rank)

    def require_possible(self, job: Job) -> None:
        """Everything that is asked for has been checked."""

    def lower(self, job: Job) -> Lowered:
        steps, name = job.steps, f"{job.stem}.litertlm"
        packed = steps.file(MODEL, lambda path: _pack(job, steps, path))
        steps.discard(GRAPH, *(_section_file(kind) for kind in SECTIONS.values()))
        steps.publish(MODEL, job.directory / name)
        begin = find_section(packed, SECTIONS["core"]).begin
        measured = steps.value(
            DELEGATION,
            lambda: asdict(_apart(job, measure, packed, begin)),
            "litert: measuring what the delegate runs",
        )
        signatures: dict[Subgraph, tuple[str, ...]] = {
            "core": (*(prefill_name(n) for n in job.prefill_lengths), DECODE),
            "token_embedding": ("embedder",),
            "per_layer_embedding": ("per_layer_embedder",),
        }
        text = (
            LoweredSubgraph(
                name,
                self.runtime,
                ROLE,
                *section_digest(packed, kind),
                signatures[name],
                Delegation(**measured) if name == "core" else None,
            )
            for name, kind in SECTIONS.items()
        )
        sizes = (
            steps.value(SIZES, lambda: measure_sizes(packed, job), "litert: measuring each size") if job.sizes else {}
        )
        towers = (
            LoweredSubgraph(
                t["subgraph"],
                self.runtime,
                ROLE,
                *section_digest(packed, t["kind"]),
                tuple(t["signatures"]),
                None if t["delegation"] is None else Delegation(**t["delegation"]),
            )
            for t in steps.value(TOWERS, lambda: {"parts": []})["parts"]
        )
        measured_sizes = {name: Delegation(**delegation) for name, delegation in sizes.items()}
        files = (LoweredFile(name, ROLE), *lower_adapters(job))
        return Lowered(files, (*text, *towers), measured_sizes)

    def manifest_fields(self, job: Job, lowered: Lowered) -> dict[str, Any]:
        fields: dict[str, Any] = {"lora": {"rank": job.lora_rank}} if job.lora_rank else {}
        return fields | ({"elastic": entry_points(job.files[ROLE])} if job.sizes else {})

    def of_size(self, size: Size) -> TextEntry:
        return LiteRtSize(ROLE, size)

    def with_adapter(self, adapter: Mapping[str, Adapted], rank: int) -> TextEntry:
        return LiteRtAdapted(ROLE, adapter, rank)

    def verified_logits(self, files: Files, ids: Sequence[int], prompt: int) -> np.ndarray:
        return verified_logits(files[ROLE], ids, prompt)

    def open_models(self, files: Files) -> Iterator[tuple[str, TextModel]]:
        yield "signatures", OpenedTextModel(files[ROLE])

    def open_layers(self, files: Files, config: TextConfig) -> dict[str, LayeredModel]:
        return {"layers": OpenedLayers(files[ROLE], config)}

    def alternates(self, job: Job, inputs: AlternateInputs) -> Iterator[SameNumbers | SameText]:
        return iter(())

    def open_tokenizer(self, files: Files) -> TextCodec:
        return open_tokenizer(files[ROLE])

    def open_vision(self, files: Files) -> VisionModel | None:
        return open_vision(files[ROLE])

    def open_audio(self, files: Files) -> AudioModel | None:
        return open_audio(files[ROLE])

    def prompts(self, job: Job, conversations: Sequence[Conversation]) -> Prompts:
        template, own = engine_template(job), job.tokenizer.template
        if template == wrapped(own) != own.jinja:
            job.progress(
                "note: LiteRT-LM gives a chat template neither texts nor all special tokens, so its file has the "
                "checkpoint's behind a loop that does"
            )
        elif template != own.jinja:
            job.progress(
                "note: LiteRT-LM makes other prompts of the chat template, so its file has the same turns anew"
            )
        return engine_prompts(job, template, conversations)

    def answers(
        self, job: Job, prompts: Sequence[str], max_new_tokens: int, conversations: Sequence[Conversation]
    ) -> Answers:
        texts, files = [], job.files
        adapter = files.get(NO_ADAPTER)
        with tempfile.TemporaryDirectory(dir=files[ROLE].parent, prefix=".engine-") as cache:
            # The engine that packs the weights into the cache holds both copies; a second one maps only packed ones.
            LiteRtEngine(files[ROLE], cache_dir=Path(cache)).close()
            release_free_memory()
            with LiteRtEngine(files[ROLE], cache_dir=Path(cache), adapter=adapter) as engine:
                for prompt in prompts:
                    texts.append("".join(engine.generate(prompt, GREEDY, max_new_tokens)))
                return Answers(texts, [rendered(engine, job, messages) for messages in conversations])

    def run_on_accelerator(self, job: Job, run: AcceleratorRun) -> AcceleratorOutputs:
        return run_on_gpu(run.files[ROLE], job.config, run, job.prefill_lengths)

    def run_on_arm(self, run: ArmRun) -> Outputs:
        return run_on_arm(run.kit, run.bundle.file(ROLE), run.texts, run.greedy, run.rows, run.scratch)


def _section_file(kind: SectionKind) -> str:
    """The file that holds a section before it is packed."""
    return f"{kind}.tflite"


def _pack(job: Job, steps: Steps, path: Path) -> None:
    """Make the sections, each as a resumable step, and write them to ``path``."""
    config, recipe, read = job.config, job.recipe, job.source.read
    usable = usable_context(config, job.context, job.prefill_lengths)
    positions = full_cache_length(config, usable, job.prefill_lengths)
    traced = config, job.context, job.prefill_lengths, job.sizes, positions, job.lora_rank
    graph = steps.file(
        GRAPH,
        lambda p: _write(p, _apart(job, convert, *traced)),
        "litert: tracing and converting the graphs",
    )
    if job.target.place("core").delegate == "gpu":
        job.progress("litert: checking that the GPU takes every operator")
        weights = {spec.input_name for spec in text_weights(config).values()}
        require_gpu_operators(graph.read_bytes(), weights, "the text model")
    core = steps.file(
        _section_file("prefill_decode"),
        lambda p: _bind(job, graph, p),
        "litert: quantising and binding the weights",
    )
    embedder = steps.file(
        _section_file("embedder"),
        lambda p: write_token_embedder(config, recipe, read, p),
        "litert: writing the token embedding",
    )
    per_layer = steps.file(
        _section_file("per_layer_embedder"),
        lambda p: write_ple_embedder(config, recipe, read, p),
        "litert: writing the per-layer embedding",
    )
    towers = lower_towers(job, steps.folder)
    steps.value(TOWERS, lambda: {"parts": [asdict(t) | {"path": t.path.name} for t in towers]})
    job.progress("litert: packing the bundle")
    tokenizer = engine_tokenizer(job.tokenizer, job.tools)
    llm = llm_metadata(usable, job.tokenizer, engine_template(job), media_of(job), job.tools, tokenizer.suppressed)
    models: dict[SectionKind, Path] = {
        "prefill_decode": core,
        "embedder": embedder,
        "per_layer_embedder": per_layer,
    }
    models |= {tower.kind: tower.path for tower in towers}
    views = [View(name, tower.kind, at) for tower in towers for name, at in tower.views.items()]
    if job.sizes:
        views.append(View(ELASTIC_VIEW, "prefill_decode", find_file_headers(core)[1]))
    executor = executor_metadata(config, usable)
    write_litertlm(path, models, tokenizer.model, llm, executor, views, IN_FLOAT32)
    for tower in towers:
        tower.path.unlink()


def _apart(job: Job, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function`` in a process of its own if the model is large; for a small model, starting one takes longer."""
    if core_parameter_count(job.config) > LARGE_PARAMETERS:
        return isolated(function, *args, **kwargs)
    return function(*args, **kwargs)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _bind(job: Job, graph: Path, path: Path) -> None:
    wanted = signature_groups(job)
    bind(graph.read_bytes(), text_weights(job.config), job.recipe, job.source.read, path, wanted)
    write_file_headers(path, wanted)
