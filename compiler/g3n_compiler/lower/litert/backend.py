"""The LiteRT backend: TFLite parts packed into one ``.litertlm`` for the stock LiteRT-LM engine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from g3n_compiler.bundle.litertlm import (
    SectionKind,
    View,
    executor_metadata,
    extract,
    find_section,
    llm_metadata,
    section_digest,
    write_litertlm,
)
from g3n_compiler.bundle.steps import Steps
from g3n_compiler.checkpoint.config import TextConfig
from g3n_compiler.checkpoint.multimodal import Modality
from g3n_compiler.lower.backend import (
    Delegation,
    Job,
    LayeredModel,
    Lowered,
    LoweredFile,
    LoweredSubgraph,
    TextModel,
    Towers,
)
from g3n_compiler.lower.litert.bind import bind
from g3n_compiler.lower.litert.delegation import measure
from g3n_compiler.lower.litert.embedding import write_ple_embedder, write_token_embedder
from g3n_compiler.lower.litert.graph import convert
from g3n_compiler.lower.litert.layers import LayeredDecoder
from g3n_compiler.lower.litert.towers import lower_towers, media_of, open_towers
from g3n_compiler.modules.weights import text_weights
from g3n_compiler.targets import Runtime, Subgraph
from g3n_compiler.trace.signatures import DECODE, prefill_name
from g3n_runtime.engine import GREEDY
from g3n_runtime.litert import LiteRtChat
from g3n_runtime.litert_model import LiteRtModel, LiteRtParts, LiteRtTables

MODEL = "model.litertlm"
GRAPH = "graph.tflite"
DELEGATION = "delegation.json"
TOWERS = "towers.json"
ROLE = "litertlm"
SECTIONS: dict[Subgraph, SectionKind] = {
    "core": "prefill_decode",
    "token_embedding": "embedder",
    "per_layer_embedding": "per_layer_embedder",
}


class LiteRtBackend:
    """See :class:`g3n_compiler.lower.backend.Backend`."""

    runtime: Runtime = "litert"
    modalities: tuple[Modality, ...] = ("text", "vision", "audio")

    def lower(self, job: Job) -> Lowered:
        steps = job.steps
        packed = steps.file(MODEL, lambda path: _pack(job, steps, path))
        steps.discard(GRAPH, *(_part_name(kind) for kind in SECTIONS.values()))
        steps.publish(MODEL, job.directory)
        begin = find_section(packed, SECTIONS["core"]).begin
        measured = steps.value(
            DELEGATION, lambda: asdict(measure(packed, begin)), "litert: measuring what the delegate takes"
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
        return Lowered((LoweredFile(MODEL, ROLE),), (*text, *towers))

    def open_models(self, directory: Path) -> dict[str, TextModel]:
        return {"signatures": _ExtractedModel(directory / MODEL)}

    def open_layers(self, directory: Path, config: TextConfig) -> dict[str, LayeredModel]:
        return {"layers": _ExtractedLayers(directory / MODEL, config)}

    def open_towers(self, directory: Path) -> Towers:
        return open_towers(directory / MODEL)

    def generate(self, directory: Path, prompt: str, max_new_tokens: int) -> Iterator[str]:
        chat = LiteRtChat(directory / MODEL)
        try:
            yield from chat.send(prompt, GREEDY, max_new_tokens)
        finally:
            chat.close()


def _part_name(kind: SectionKind) -> str:
    """File of a section before it is packed."""
    return f"{kind}.tflite"


def _pack(job: Job, steps: Steps, path: Path) -> None:
    """Make the sections, each a step of its own, and write them to ``path``."""
    config, recipe, read = job.config, job.recipe, job.checkpoint.read
    graph = steps.file(
        GRAPH,
        lambda p: _write(p, convert(config, job.context, job.prefill_lengths)),
        "litert: tracing and converting the graphs",
    )
    core = steps.file(
        _part_name("prefill_decode"),
        lambda p: _bind(job, graph, p),
        "litert: quantising and binding the weights",
    )
    embedder = steps.file(
        _part_name("embedder"),
        lambda p: write_token_embedder(config, recipe, read, p),
        "litert: writing the token embedding",
    )
    per_layer = steps.file(
        _part_name("per_layer_embedder"),
        lambda p: write_ple_embedder(config, recipe, read, p),
        "litert: writing the per-layer embedding",
    )
    towers = lower_towers(job, steps.folder)
    steps.value(TOWERS, lambda: {"parts": [asdict(t) | {"path": t.path.name} for t in towers]})
    job.progress("litert: packing the bundle")
    tokenizer = job.tokenizer
    llm = llm_metadata(
        job.context,
        tokenizer.bos_id,
        tokenizer.stop_ids,
        chat_template=tokenizer.chat_template,
        sampler=tokenizer.sampler,
        media=media_of(job),
    )
    models: dict[SectionKind, Path] = {
        "prefill_decode": core,
        "embedder": embedder,
        "per_layer_embedder": per_layer,
    }
    models |= {tower.kind: tower.path for tower in towers}
    views = [View(name, tower.kind, at) for tower in towers for name, at in tower.views.items()]
    write_litertlm(path, models, tokenizer.sentencepiece, llm, executor_metadata(config, job.context), views)
    for tower in towers:
        tower.path.unlink()


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _bind(job: Job, graph: Path, path: Path) -> None:
    bind(graph.read_bytes(), text_weights(job.config), job.recipe, job.checkpoint.read, path)


class _ExtractedLayers:
    """As :class:`_ExtractedModel`; the decoder's copy is there to be cut."""

    def __init__(self, path: Path, config: TextConfig) -> None:
        self._scratch = tempfile.TemporaryDirectory(dir=path.parent, prefix=".sections-")
        parts = _extract(path, Path(self._scratch.name))
        self._tables = LiteRtTables(parts.embedder, parts.per_layer_embedder)
        self._decoder = LayeredDecoder(parts.decoder, config)

    def embeddings(self, ids: Sequence[int]) -> np.ndarray:
        return self._tables.embeddings(ids)

    def ple(self, ids: Sequence[int]) -> np.ndarray:
        return self._tables.ple(ids)

    def run(self, embeddings: np.ndarray, ple: np.ndarray, prompt: int) -> Iterator[np.ndarray]:
        return self._decoder.run(embeddings, ple, prompt)


class _ExtractedModel:
    """The sections of a finished ``.litertlm``, copied out so that the interpreter can map them."""

    def __init__(self, path: Path) -> None:
        self._scratch = tempfile.TemporaryDirectory(dir=path.parent, prefix=".sections-")
        self._model = LiteRtModel(_extract(path, Path(self._scratch.name)))

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        return self._model.logits(ids)

    def prefilled_logits(self, ids: Sequence[int], prompt: int) -> np.ndarray:
        return self._model.prefilled_logits(ids, prompt)

    def embeddings(self, ids: Sequence[int]) -> np.ndarray:
        return self._model.embeddings(ids)

    def ple(self, ids: Sequence[int]) -> np.ndarray:
        return self._model.ple(ids)

    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        return self._model.greedy(ids, count)


def _extract(path: Path, folder: Path) -> LiteRtParts:
    """Copy the sections of the ``.litertlm`` at ``path`` into ``folder``."""
    parts = {kind: folder / f"{kind}.tflite" for kind in SECTIONS.values()}
    for kind, part in parts.items():
        extract(path, kind, part)
    return LiteRtParts(*(parts[kind] for kind in SECTIONS.values()))
