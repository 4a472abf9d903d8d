"""Call the signatures of a LiteRT bundle one by one: logits for parity.

Needs ``ai-edge-litert`` (the interpreter) and numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from g3n_runtime.litert.elastic_names import signature_of
from g3n_runtime.litert.lora import zeros
from g3n_runtime.litert.text_loop import TextLoop


@dataclass(frozen=True)
class LiteRtParts:
    """The three TFLite models of a text bundle."""

    decoder: Path
    embedder: Path
    per_layer_embedder: Path


class LiteRtTables:
    """The two embedding tables of a bundle."""

    def __init__(self, embedder: Path, per_layer_embedder: Path) -> None:
        self._interpreters = [Interpreter(model_path=str(path)) for path in (embedder, per_layer_embedder)]
        self._embed, self._embed_per_layer = (i.get_signature_runner() for i in self._interpreters)

    def embeddings(self, ids: Sequence[int]) -> np.ndarray:
        """Scaled token embeddings ``[T, hidden]`` float32."""
        return self._rows(self._embed, ids)[0]

    def ple(self, ids: Sequence[int]) -> np.ndarray:
        """Scaled per-layer embeddings ``[T, layers, ple_dim]`` float32."""
        return self._rows(self._embed_per_layer, ids)[0]

    @staticmethod
    def _rows(embed: Any, ids: Sequence[int]) -> np.ndarray:
        rows = [embed(token_ids=np.array([[i]], np.int32))["embeddings"] for i in ids]
        return np.concatenate(rows, axis=1)


class LiteRtModel:
    """Calls a bundle's signatures as the engine does, but returns logits; where they take an adapter, without one.

    Args:
        parts: the models.
        threads: CPU threads of the XNNPACK delegate.
        size: a smaller size of an elastic bundle; by default the largest.
    """

    def __init__(self, parts: LiteRtParts, threads: int = 2, size: str | None = None) -> None:
        self._interpreter = decoder = Interpreter(model_path=str(parts.decoder), num_threads=threads)
        self.tables = LiteRtTables(parts.embedder, parts.per_layer_embedder)
        self.size = size
        prefix, decode = signature_of(size, "prefill_"), signature_of(size, "decode")
        lengths = {
            name: int(name.removeprefix(prefix)) for name in decoder.get_signature_list() if name.startswith(prefix)
        }
        self._runners = {name: decoder.get_signature_runner(name) for name in (decode, *lengths)}
        self.prefill_lengths = tuple(sorted(lengths.values()))
        details = self._runners[decode].get_input_details()
        self.context = int(details["mask"]["shape"][-1])
        self._cache_shapes = {n: tuple(d["shape"]) for n, d in details.items() if n.startswith("kv_cache_")}
        adapter = zeros({n: tuple(d["shape"]) for n, d in details.items()})
        self._adapter = {
            name: {n: adapter[n] for n in runner.get_input_details() if n in adapter}
            for name, runner in self._runners.items()
        }

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Teacher-forced logits ``[T, vocab]`` float32, every position through decode."""
        text = _Text(self)
        return np.stack([text.decode(token) for token in ids])

    def prefilled_logits(self, ids: Sequence[int], prompt: int) -> np.ndarray:
        """Logits ``[T - prompt + 1, vocab]`` of the positions from ``prompt - 1`` on.

        As in the engine, all of the prompt but its last token goes through prefill, the rest through decode.
        """
        text = _Text(self)
        text.prefill(ids[: prompt - 1])
        return np.stack([text.decode(token) for token in ids[prompt - 1 :]])

    def embeddings(self, ids: Sequence[int]) -> np.ndarray:
        """See :meth:`LiteRtTables.embeddings`."""
        return self.tables.embeddings(ids)

    def ple(self, ids: Sequence[int]) -> np.ndarray:
        """Scaled per-layer embeddings ``[T, layers * ple_dim]`` float32."""
        return self.tables.ple(ids).reshape(len(ids), -1)

    def greedy(self, ids: Sequence[int], count: int, stop: Sequence[int] = ()) -> list[int]:
        """Up to ``count`` most likely tokens after ``ids``; ends before a token of ``stop``."""
        return _Text(self).greedy(ids, count, stop)


class _Text(TextLoop):
    """A text whose caches are arrays."""

    def __init__(self, model: LiteRtModel) -> None:
        super().__init__(model.tables, model.context, model.prefill_lengths)
        self._model = model
        self._caches = {name: np.zeros(shape, np.float32) for name, shape in model._cache_shapes.items()}

    def _signature(self, name: str, size: str | None) -> str:
        return signature_of(self._model.size if size is None else size, name)

    def _call(self, signature: str, inputs: dict[str, np.ndarray]) -> np.ndarray | None:
        out = self._model._runners[signature](**inputs, **self._caches, **self._model._adapter[signature])
        self._caches = {name: out[name] for name in self._caches}
        return out["logits"][0] if "logits" in out else None
