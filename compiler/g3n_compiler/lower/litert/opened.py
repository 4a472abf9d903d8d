"""The decoder and tables of a finished ``.litertlm``, copied out so that LiteRT can map them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from g3n_compiler.heap import release_free_memory
from g3n_compiler.lower.litert.container import SectionKind, extract, find_section
from g3n_compiler.lower.litert.layers import LayeredDecoder
from g3n_compiler.lower.subgraphs import Subgraph
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.slice.elastic import Size
from g3n_runtime.litert.elastic import ElasticModel, ElasticText
from g3n_runtime.litert.elastic_names import ELASTIC_VIEW
from g3n_runtime.litert.model import LiteRtParts, LiteRtTables
from g3n_runtime.page_cache import drop_from_page_cache

SECTIONS: dict[Subgraph, SectionKind] = {
    "core": "prefill_decode",
    "token_embedding": "embedder",
    "per_layer_embedding": "per_layer_embedder",
}


LARGEST = "largest"
"""Our name here for the size that every bundle has."""


class OpenedTextModel:
    """See :class:`g3n_compiler.lower.opened.TextModel`.

    The delegate's packed weights go into a file beside the models; in memory they would take the same space again for
    each signature.

    Args:
        size: a size of an elastic bundle; by default, the entry point that the stock engine runs.
        adapter: inputs of a graph that takes a LoRA adapter; without them it runs as if there were none.
    """

    def __init__(self, path: Path, size: Size | None = None, adapter: Mapping[str, np.ndarray] | None = None) -> None:
        self._scratch = tempfile.TemporaryDirectory(dir=path.parent, prefix=".sections-")
        folder = Path(self._scratch.name)
        parts, names = _extract(path, folder, size is not None), [LARGEST] if size is None else [LARGEST, size.name]
        self._model = open_packed(parts, names, folder / "weights.xnnpack", adapter)
        self._size, self._rows = names[-1], None if size is None else list(size.rows)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        text = ElasticText(self._model)
        return np.stack([text.decode(token, self._size) for token in ids])

    def prefilled_logits(self, ids: Sequence[int], prompt: int) -> np.ndarray:
        text = ElasticText(self._model)
        text.prefill(ids[: prompt - 1], self._size)
        return np.stack([text.decode(token, self._size) for token in ids[prompt - 1 :]])

    def embeddings(self, ids: Sequence[int]) -> np.ndarray:
        return self._model.tables.embeddings(ids)

    def ple(self, ids: Sequence[int]) -> np.ndarray:
        rows = self._model.tables.ple(ids)
        return (rows if self._rows is None else rows[:, self._rows]).reshape(len(ids), -1)

    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        return ElasticText(self._model).greedy(ids, count, size=self._size)


def open_packed(
    parts: LiteRtParts, sizes: Sequence[str], cache: Path, adapter: Mapping[str, np.ndarray] | None = None
) -> ElasticModel:
    """The decoder with its packed weights in the file ``cache``.

    The model that packs the weights has read all of them, so a second one is opened, which maps only the packed
    weights.
    """
    ElasticModel(parts, sizes, weight_cache=cache).close()
    release_free_memory()
    return ElasticModel(parts, sizes, weight_cache=cache, adapter=adapter)


class OpenedLayers:
    """Like :class:`OpenedTextModel`, but run layer by layer, which overwrites the copy's flatbuffer."""

    def __init__(
        self,
        path: Path,
        config: TextConfig,
        size: Size | None = None,
        adapter: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._scratch = tempfile.TemporaryDirectory(dir=path.parent, prefix=".sections-")
        parts = _extract(path, Path(self._scratch.name), size is not None)
        self._tables = LiteRtTables(parts.embedder, parts.per_layer_embedder)
        self._decoder = LayeredDecoder(parts.decoder, config, None if size is None else size.name, adapter=adapter)
        self._rows = None if size is None else list(size.rows)

    def embeddings(self, ids: Sequence[int]) -> np.ndarray:
        return self._tables.embeddings(ids)

    def ple(self, ids: Sequence[int]) -> np.ndarray:
        rows = self._tables.ple(ids)
        return rows if self._rows is None else rows[:, self._rows]

    def run(self, embeddings: np.ndarray, ple: np.ndarray, prompt: int) -> Iterator[np.ndarray]:
        if self._rows is not None:
            # The graph takes the rows of all layers; NaN shows if it reads those of layers that it does not have.
            every = np.full((len(ple), self._decoder.ple_layers, ple.shape[-1]), np.nan, np.float32)
            every[:, self._rows] = ple
            ple = every
        return self._decoder.run(embeddings, ple, prompt)


def open_tokenizer(path: Path) -> sentencepiece.SentencePieceProcessor:
    """The SentencePiece model in a finished ``.litertlm``."""
    section = find_section(path, "sp_tokenizer")
    with path.open("rb") as file:
        file.seek(section.begin)
        return sentencepiece.SentencePieceProcessor(model_proto=file.read(section.end - section.begin))


def verified_logits(path: Path, ids: Sequence[int], prompt: int) -> np.ndarray:
    """:meth:`OpenedTextModel.prefilled_logits` for the largest of several sizes, computed by the calls that verify
    drafts.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".sections-") as scratch:
        model = open_packed(_extract(path, Path(scratch), elastic=True), [LARGEST], Path(scratch) / "weights.xnnpack")
        text = ElasticText(model)
        text.prefill(ids[: prompt - 1], LARGEST)
        length = text.model.verify_length
        return np.concatenate([text.verify(ids[at : at + length]) for at in range(prompt - 1, len(ids), length)])


def _extract(path: Path, folder: Path, elastic: bool) -> LiteRtParts:
    """Copy the sections of the ``.litertlm`` at ``path`` into ``folder``."""
    kinds: list[str] = list(SECTIONS.values())
    if elastic:
        kinds[0] = ELASTIC_VIEW
    parts = [folder / f"{kind}.tflite" for kind in kinds]
    for kind, part in zip(kinds, parts, strict=True):
        extract(path, kind, part)
    for table in parts[1:]:
        drop_from_page_cache(table)
    return LiteRtParts(*parts)
