"""The decoder and tables of a finished ``.litertlm``, copied out so that the interpreter can map them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from g3n_compiler.bundle.litertlm import SectionKind, extract
from g3n_compiler.checkpoint.config import TextConfig
from g3n_compiler.lower.litert.layers import LayeredDecoder
from g3n_compiler.slice.elastic import Size
from g3n_compiler.targets import Subgraph
from g3n_runtime.elastic import ELASTIC_VIEW
from g3n_runtime.litert_elastic import ElasticModel, ElasticText
from g3n_runtime.litert_model import LiteRtModel, LiteRtParts, LiteRtTables

SECTIONS: dict[Subgraph, SectionKind] = {
    "core": "prefill_decode",
    "token_embedding": "embedder",
    "per_layer_embedding": "per_layer_embedder",
}


class ExtractedModel:
    """See :class:`g3n_compiler.lower.backend.TextModel`.

    Args:
        size: of an elastic bundle; by default the entry point that the stock engine runs.
    """

    def __init__(self, path: Path, size: Size | None = None) -> None:
        self._scratch = tempfile.TemporaryDirectory(dir=path.parent, prefix=".sections-")
        name = None if size is None else size.name
        self._model = LiteRtModel(_extract(path, Path(self._scratch.name), size is not None), size=name)
        self._rows = None if size is None else list(size.rows)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        return self._model.logits(ids)

    def prefilled_logits(self, ids: Sequence[int], prompt: int) -> np.ndarray:
        return self._model.prefilled_logits(ids, prompt)

    def embeddings(self, ids: Sequence[int]) -> np.ndarray:
        return self._model.embeddings(ids)

    def ple(self, ids: Sequence[int]) -> np.ndarray:
        rows = self._model.tables.ple(ids)
        return (rows if self._rows is None else rows[:, self._rows]).reshape(len(ids), -1)

    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        return self._model.greedy(ids, count)


class ExtractedLayers:
    """As :class:`ExtractedModel`, layer by layer; the decoder's copy is there to be cut."""

    def __init__(self, path: Path, config: TextConfig, size: Size | None = None) -> None:
        self._scratch = tempfile.TemporaryDirectory(dir=path.parent, prefix=".sections-")
        parts = _extract(path, Path(self._scratch.name), size is not None)
        self._tables = LiteRtTables(parts.embedder, parts.per_layer_embedder)
        self._decoder = LayeredDecoder(parts.decoder, config, size=None if size is None else size.name)
        self._rows = None if size is None else list(size.rows)

    def embeddings(self, ids: Sequence[int]) -> np.ndarray:
        return self._tables.embeddings(ids)

    def ple(self, ids: Sequence[int]) -> np.ndarray:
        rows = self._tables.ple(ids)
        return rows if self._rows is None else rows[:, self._rows]

    def run(self, embeddings: np.ndarray, ple: np.ndarray, prompt: int) -> Iterator[np.ndarray]:
        if self._rows is not None:
            # The graph takes the rows of all layers and must not read those of layers that are not its own.
            every = np.full((len(ple), self._decoder.ple_layers, ple.shape[-1]), np.nan, np.float32)
            every[:, self._rows] = ple
            ple = every
        return self._decoder.run(embeddings, ple, prompt)


def verified_logits(path: Path, ids: Sequence[int], prompt: int) -> np.ndarray:
    """As :meth:`ExtractedModel.prefilled_logits` of the largest of several sizes, by the calls that verify drafts."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".sections-") as scratch:
        largest = "largest"
        text = ElasticText(ElasticModel(_extract(path, Path(scratch), elastic=True), [largest]))
        text.prefill(ids[: prompt - 1], largest)
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
    return LiteRtParts(*parts)
