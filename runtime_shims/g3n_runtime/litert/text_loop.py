"""One text on its way through a LiteRT decoder: chunks of the prompt, then token by token. Needs numpy only.

:mod:`g3n_runtime.litert.model` and :mod:`g3n_runtime.litert.elastic` say how a signature is called.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from g3n_runtime.conversation import require_within

MASKED = -0.7 * float(np.finfo(np.float32).max)
"""Mask value of a position that may not be seen, as the engine writes it."""


class Tables(Protocol):
    """The embedding tables of a bundle."""

    def embeddings(self, ids: Sequence[int]) -> np.ndarray:
        """Scaled token embeddings ``[T, hidden]`` float32."""

    def ple(self, ids: Sequence[int]) -> np.ndarray:
        """Scaled per-layer embeddings ``[T, layers, ple_dim]`` float32."""


class TextLoop(ABC):
    """A text so far, whose caches a subclass holds; ``size`` chooses a size of an elastic bundle."""

    def __init__(self, tables: Tables, context: int, prefill_lengths: Sequence[int]) -> None:
        self._tables, self._context, self._prefill_lengths = tables, context, prefill_lengths
        self.ids: list[int] = []
        """The tokens so far."""

    @abstractmethod
    def _signature(self, name: str, size: str | None) -> str:
        """What the model calls the signature ``name`` of ``size``."""

    @abstractmethod
    def _call(self, signature: str, inputs: dict[str, np.ndarray]) -> np.ndarray | None:
        """Run ``signature`` on the text's caches and keep the new ones; logits ``[T, vocab]``, if it gives any."""

    def prefill(self, ids: Sequence[int], size: str | None = None) -> None:
        """Take ``ids`` in chunks, as :func:`prefill_chunks` says, without logits."""
        for count, length in prefill_chunks(len(ids), self._prefill_lengths):
            self._step(ids[:count], length, self._signature(f"prefill_{length}", size))
            ids = ids[count:]

    def decode(self, token: int, size: str | None = None) -> np.ndarray:
        """Logits ``[vocab]`` float32 after ``token``."""
        logits = self._step([token], 1, self._signature("decode", size))
        assert logits is not None
        return logits[0]

    def greedy(self, ids: Sequence[int], count: int, stop: Sequence[int] = (), size: str | None = None) -> list[int]:
        """Up to ``count`` most likely tokens after ``ids``; ends before a token of ``stop``.

        As in the engine, all of ``ids`` but the last goes through prefill.
        """
        self.prefill(ids[:-1], size)
        token, out = ids[-1], []
        for _ in range(count):
            token = int(self.decode(token, size).argmax())
            if token in stop:
                break
            out.append(token)
        return out

    def _step(self, ids: Sequence[int], length: int, signature: str) -> np.ndarray | None:
        logits = self._call(signature, self._inputs(ids, len(self.ids), length))
        self.ids += ids
        return logits

    def _inputs(self, ids: Sequence[int], position: int, length: int) -> dict[str, np.ndarray]:
        embeddings, ple = self._tables.embeddings(ids), self._tables.ple(ids)
        return signature_inputs(embeddings, ple, position, length, self._context)


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
    require_within(position + count, context)
    input_pos = np.zeros(length, np.int32)
    input_pos[:count] = np.arange(position, position + count)
    mask = np.full((1, 1, length, context), MASKED, np.float32)
    for i in range(count):
        mask[0, 0, i, : position + i + 1] = 0
    padding = (0, length - count)
    return {
        "embeddings": np.pad(embeddings, (padding, (0, 0)))[None],
        "per_layer_embeddings": np.pad(ple, (padding, (0, 0), (0, 0)))[None],
        "input_pos": input_pos,
        "mask": mask,
    }
