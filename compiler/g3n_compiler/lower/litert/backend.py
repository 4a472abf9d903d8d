"""The LiteRT backend: TFLite parts packed into one ``.litertlm`` for the stock LiteRT-LM engine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from g3n_compiler.bundle.litertlm import (
    SectionKind,
    executor_metadata,
    extract,
    llm_metadata,
    write_litertlm,
)
from g3n_compiler.checkpoint.config import TextConfig
from g3n_compiler.checkpoint.reader import file_sha256
from g3n_compiler.lower.backend import Job, LayeredModel, Lowered, LoweredFile, LoweredSubgraph, TextModel
from g3n_compiler.lower.litert import layers
from g3n_compiler.lower.litert.bind import bind
from g3n_compiler.lower.litert.delegation import measure
from g3n_compiler.lower.litert.embedding import write_ple_embedder, write_token_embedder
from g3n_compiler.lower.litert.graph import convert
from g3n_compiler.modules.weights import text_weights
from g3n_compiler.targets import Runtime, Subgraph
from g3n_compiler.trace.signatures import DECODE, prefill_name
from g3n_runtime.engine import GREEDY
from g3n_runtime.litert import LiteRtChat
from g3n_runtime.litert_model import LiteRtModel, LiteRtParts

MODEL = "model.litertlm"
ROLE = "litertlm"
SECTIONS: dict[Subgraph, SectionKind] = {
    "core": "prefill_decode",
    "token_embedding": "embedder",
    "per_layer_embedding": "per_layer_embedder",
}


class LiteRtBackend:
    """See :class:`g3n_compiler.lower.backend.Backend`."""

    runtime: Runtime = "litert"

    def lower(self, job: Job) -> Lowered:
        config, read = job.config, job.checkpoint.read
        with tempfile.TemporaryDirectory(dir=job.directory, prefix=".litert-") as scratch:
            parts = {kind: Path(scratch) / f"{kind}.tflite" for kind in SECTIONS.values()}
            job.progress("litert: tracing and converting the graphs")
            graph = convert(config, job.context, job.prefill_lengths)
            job.progress("litert: quantising and binding the weights")
            bind(graph, text_weights(config), job.recipe, read, parts["prefill_decode"])
            job.progress("litert: writing the embedding tables")
            write_token_embedder(config, job.recipe, read, parts["embedder"])
            write_ple_embedder(config, job.recipe, read, parts["per_layer_embedder"])
            job.progress("litert: measuring what the delegate takes")
            delegation = measure(parts["prefill_decode"])
            job.progress("litert: packing the bundle")
            tokenizer = job.tokenizer
            llm = llm_metadata(
                job.context,
                tokenizer.bos_id,
                tokenizer.stop_ids,
                chat_template=tokenizer.chat_template,
                sampler=tokenizer.sampler,
            )
            executor = executor_metadata(config, job.context)
            write_litertlm(job.directory / MODEL, parts, tokenizer.sentencepiece, llm, executor)
            digests = {kind: (file_sha256(path), path.stat().st_size) for kind, path in parts.items()}
        signatures: dict[Subgraph, tuple[str, ...]] = {
            "core": (*(prefill_name(n) for n in job.prefill_lengths), DECODE),
            "token_embedding": ("embedder",),
            "per_layer_embedding": ("per_layer_embedder",),
        }
        subgraphs = tuple(
            LoweredSubgraph(
                name, self.runtime, ROLE, *digests[kind], signatures[name], delegation if name == "core" else None
            )
            for name, kind in SECTIONS.items()
        )
        return Lowered((LoweredFile(MODEL, ROLE),), subgraphs)

    def open_models(self, directory: Path) -> dict[str, TextModel]:
        return {"signatures": _ExtractedModel(directory / MODEL)}

    def open_layers(self, directory: Path, config: TextConfig) -> dict[str, LayeredModel]:
        return {"layers": _ExtractedLayers(directory / MODEL, config)}

    def generate(self, directory: Path, prompt: str, max_new_tokens: int) -> Iterator[str]:
        chat = LiteRtChat(directory / MODEL)
        try:
            yield from chat.send(prompt, GREEDY, max_new_tokens)
        finally:
            chat.close()


class _ExtractedLayers:
    """The decoder of a finished ``.litertlm``, copied out so that it can be cut."""

    def __init__(self, path: Path, config: TextConfig) -> None:
        self._scratch = tempfile.TemporaryDirectory(dir=path.parent, prefix=".sections-")
        decoder = Path(self._scratch.name) / "decoder.tflite"
        extract(path, SECTIONS["core"], decoder)
        self._model = layers.LayeredModel(decoder, config)

    def run(self, embeddings: np.ndarray, ple: np.ndarray, prompt: int) -> Iterator[np.ndarray]:
        return self._model.run(embeddings, ple, prompt)


class _ExtractedModel:
    """The sections of a finished ``.litertlm``, copied out so that the interpreter can map them."""

    def __init__(self, path: Path) -> None:
        self._scratch = tempfile.TemporaryDirectory(dir=path.parent, prefix=".sections-")
        parts = {kind: Path(self._scratch.name) / f"{kind}.tflite" for kind in SECTIONS.values()}
        for kind, part in parts.items():
            extract(path, kind, part)
        self._model = LiteRtModel(LiteRtParts(*(parts[kind] for kind in SECTIONS.values())))

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
