"""How exact float32 is on the checkpoint at hand: what two right implementations in float32 may differ by.

Rounding adds up over the layers, and a sharp attention makes more of it. So the whole model is held to what float32
itself differs by from float64 there, and a fault is looked for layer by layer, where nothing adds up: each layer of
``transformers`` against ours on the same inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from g3n_compiler.models.eager_cache import EagerCache
from g3n_compiler.models.embedding_tables import EmbeddingTables
from g3n_compiler.models.registry import text_weights
from g3n_compiler.source import Source
from g3n_compiler.verify.checks import EXACT, relative_error
from g3n_compiler.verify.layers import JITTER, LayerErrors, layer_errors
from g3n_compiler.verify.reference import Reference

REACH = 4.0
"""How much further apart two float32 implementations may be than one of ours is from float64: each has its own error,
and which of their many sums comes out worse is chance."""
CHUNK = 24
"""Positions in a chunk of ours, run once more: the same sums in another order."""
SUSPECT = 1 / REACH
"""Share of the plain limit from which on it is asked how far some last bits of the input can reach: a sharp attention
makes of the same bit now little, now much."""
DRAWS = 3
"""Of such inputs."""


class DoubleWeights:
    """A checkpoint's weights in float64."""

    def __init__(self, source: Source) -> None:
        self._read, self._specs = source.read, text_weights(source.text)

    def tensor(self, name: str) -> Tensor:
        return self._read(self._specs[name]).double()

    def linear(self, name: str, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, self.tensor(name))


@torch.no_grad()
def logits_in_float64(source: Source, ids: Sequence[int]) -> np.ndarray:
    """``[T, vocab]`` float64, every position; for a model that is held in memory as a whole."""
    decoder, tables = (
        source.family.decoder(source.text, DoubleWeights(source)),
        EmbeddingTables(source.text, source.read),
    )
    embeddings, ple = tables.embeddings(ids).double(), tables.ple(ids).double()
    return decoder.decode(embeddings, ple, torch.arange(len(ids)), EagerCache(source.text))[0].numpy()


def float32_limit(exact: Reference, source: Source, ids: Sequence[int], logits: np.ndarray) -> float:
    """Relative error of logits that float32 implementations may have: :data:`EXACT`, or more where float32 has more.

    Args:
        exact: our decoder over the weights of ``source``.
        logits: what it gives for ``ids``.
    """
    want = logits_in_float64(source, ids)
    own = max(relative_error(got, want) for got in (logits, exact.logits(ids, CHUNK).numpy()))
    if own > SUSPECT * EXACT:
        own = max(own, *(relative_error(_jittered(exact, ids, draw), want) for draw in range(DRAWS)))
    return max(EXACT, REACH * own)


@torch.no_grad()
def _jittered(exact: Reference, ids: Sequence[int], draw: int) -> np.ndarray:
    """Logits ``[T, vocab]`` of rows that are off by :data:`~g3n_compiler.verify.layers.JITTER`."""
    generator = torch.Generator().manual_seed(draw)

    def move(x: Tensor) -> Tensor:
        return x * (1 + JITTER * torch.randn(x.shape, generator=generator))

    rows = move(exact.tables.embeddings(ids)), move(exact.tables.ple(ids))
    return exact.decoder.decode(*rows, torch.arange(len(ids)), EagerCache(exact.config))[0].numpy()


class TransformersLayers:
    """One pass of ``transformers`` as a :class:`~g3n_compiler.lower.opened.LayeredModel`: what each layer gave.

    Args:
        model: as ``Family.load_transformers`` gives it.
        tables: rows that both start from.
    """

    def __init__(self, model: Any, tables: EmbeddingTables, ids: Sequence[int]) -> None:
        self._tables, self._layers = tables, list[np.ndarray]()

        def keep(module: Any, inputs: Any, output: Any) -> None:
            streams = output[0] if isinstance(output, tuple) else output
            self._layers.append(streams[:, 0].transpose(0, 1).float().numpy())

        hooks = [layer.register_forward_hook(keep) for layer in model.model.layers]
        try:
            with torch.no_grad():
                self.logits: np.ndarray = model(input_ids=torch.tensor([list(ids)])).logits[0].float().numpy()
        finally:
            for hook in hooks:
                hook.remove()

    def embeddings(self, ids: Sequence[int]) -> np.ndarray:
        return self._tables.embeddings(ids)[0].numpy()

    def ple(self, ids: Sequence[int]) -> np.ndarray:
        return self._tables.ple(ids)[0].numpy()

    def run(self, embeddings: np.ndarray, ple: np.ndarray, prompt: int) -> Iterator[np.ndarray]:
        """The outputs of all layers ``[T, streams, hidden]``, then the logits ``[T, vocab]``."""
        yield from self._layers
        yield self.logits


def transformers_errors(exact: Reference, model: TransformersLayers, ids: Sequence[int]) -> LayerErrors:
    """The error of each layer of ``transformers`` from ours on the same inputs, and of its head."""
    return layer_errors(exact, model, ids, 1, EXACT)
