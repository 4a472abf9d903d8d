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

from g3n_runtime.errors import EngineError
from g3n_runtime.litert.names import signature_of

HIDDEN = -0.7 * float(np.finfo(np.float32).max)
"""Mask value of a position that may not be seen, as the engine writes it."""


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
    """Calls a bundle's signatures as the engine does, but returns logits.

    Args:
        parts: the models.
        threads: CPU threads of the XNNPACK delegate.
        size: a smaller size of an elastic bundle; by default the largest.
    """

    def __init__(self, parts: LiteRtParts, threads: int = 2, size: str | None = None) -> None:
        self._interpreter = decoder = Interpreter(model_path=str(parts.decoder), num_threads=threads)
        self.tables = LiteRtTables(parts.embedder, parts.per_layer_embedder)
        self._decode = decoder.get_signature_runner(signature_of(size, "decode"))
        prefix = signature_of(size, "prefill_")
        self._prefill = {
            int(name.removeprefix(prefix)): decoder.get_signature_runner(name)
            for name in decoder.get_signature_list()
            if name.startswith(prefix)
        }
        details = self._decode.get_input_details()
        self.context = int(details["mask"]["shape"][-1])
        self._cache_shapes = {n: tuple(d["shape"]) for n, d in details.items() if n.startswith("kv_cache_")}

    @property
    def prefill_lengths(self) -> tuple[int, ...]:
        return tuple(sorted(self._prefill))

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Teacher-forced logits ``[T, vocab]`` float32, every position through decode."""
        run = _Run(self)
        return np.stack([run.decode(token) for token in ids])

    def prefilled_logits(self, ids: Sequence[int], prompt: int) -> np.ndarray:
        """Logits ``[T - prompt + 1, vocab]`` of the positions from ``prompt - 1`` on.

        As in the engine, all of the prompt but its last token goes through prefill, the rest through decode.
        """
        run = _Run(self)
        run.prefill(ids[: prompt - 1])
        return np.stack([run.decode(token) for token in ids[prompt - 1 :]])

    def embeddings(self, ids: Sequence[int]) -> np.ndarray:
        """See :meth:`LiteRtTables.embeddings`."""
        return self.tables.embeddings(ids)

    def ple(self, ids: Sequence[int]) -> np.ndarray:
        """Scaled per-layer embeddings ``[T, layers * ple_dim]`` float32."""
        return self.tables.ple(ids).reshape(len(ids), -1)

    def greedy(self, ids: Sequence[int], count: int, stop: Sequence[int] = ()) -> list[int]:
        """Up to ``count`` most likely tokens after ``ids``; ends before a token of ``stop``."""
        run = _Run(self)
        run.prefill(ids[:-1])
        token, out = ids[-1], []
        for _ in range(count):
            token = int(run.decode(token).argmax())
            if token in stop:
                break
            out.append(token)
        return out


class _Run:
    """One text on its way through the model: its caches and position."""

    def __init__(self, model: LiteRtModel) -> None:
        self._model = model
        self._position = 0
        self._caches = {name: np.zeros(shape, np.float32) for name, shape in model._cache_shapes.items()}

    def prefill(self, ids: Sequence[int]) -> None:
        """Take ``ids`` in chunks, as :func:`prefill_chunks` says."""
        for count, length in prefill_chunks(len(ids), self._model.prefill_lengths):
            self._call(self._model._prefill[length], ids[:count], length)
            ids = ids[count:]

    def decode(self, token: int) -> np.ndarray:
        """Logits ``[vocab]`` after ``token``."""
        return self._call(self._model._decode, [token], 1)["logits"][0, 0]

    def _call(self, signature: Any, ids: Sequence[int], length: int) -> dict[str, np.ndarray]:
        """Run ``ids`` through a signature of ``length`` tokens."""
        tables = self._model.tables
        inputs = signature_inputs(tables.embeddings(ids), tables.ple(ids), self._position, length, self._model.context)
        out = signature(**inputs, **self._caches)
        self._caches = {name: out[name] for name in self._caches}
        self._position += len(ids)
        return out


def prefill_chunks(count: int, lengths: Sequence[int]) -> list[tuple[int, int]]:
    """How ``count`` prompt tokens are fed: ``(tokens, signature's length)`` for each call.

    The longest of the rising ``lengths`` while it is filled, then the shortest that holds the rest.
    """
    chunks = [(lengths[-1], lengths[-1])] * (count // lengths[-1])
    if rest := count % lengths[-1]:
        chunks.append((rest, next(n for n in lengths if n >= rest)))
    return chunks


def signature_inputs(
    embeddings: np.ndarray, ple: np.ndarray, position: int, length: int, context: int
) -> dict[str, np.ndarray]:
    """Inputs of a signature, caches apart, padded to its ``length`` with zero rows at position 0 that see nothing.

    Args:
        embeddings: ``[T, hidden]``.
        ple: ``[T, layers, ple_dim]``.
        position: of the first token.

    Raises:
        EngineError: the tokens reach past ``context``.
    """
    count = len(embeddings)
    if position + count > context:
        raise EngineError(f"{position + count} tokens do not fit the bundle's context of {context}")
    input_pos = np.zeros(length, np.int32)
    input_pos[:count] = np.arange(position, position + count)
    mask = np.full((1, 1, length, context), HIDDEN, np.float32)
    for i in range(count):
        mask[0, 0, i, : position + i + 1] = 0
    padding = (0, length - count)
    return {
        "embeddings": np.pad(embeddings, (padding, (0, 0)))[None],
        "per_layer_embeddings": np.pad(ple, (padding, (0, 0), (0, 0)))[None],
        "input_pos": input_pos,
        "mask": mask,
    }
