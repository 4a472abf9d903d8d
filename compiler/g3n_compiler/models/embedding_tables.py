"""Token embedding and per-layer embedding (PLE): two look-ups whose tables stay in flash.

Reference: ``Gemma3nTextScaledWordEmbedding`` and ``Gemma3nTextModel.get_per_layer_inputs``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from g3n_compiler.errors import G3nError
from g3n_compiler.models.shape import TextShape
from g3n_compiler.models.weights import WeightSpec
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.quantize.rows import fake_quantize


def embedding_weights(config: TextShape) -> dict[str, WeightSpec]:
    """The two tables: token embedding ``[vocab, hidden]`` and per-layer embedding ``[ple_vocab, layers * ple_dim]``.

    If there are several ``ple_groups``, each has its own per-layer table, see :func:`ple_tables`.
    """
    c = config
    tokens = WeightSpec("embed_tokens", (c.vocab_size, c.hidden_size), "embedding", "embed_tokens.weight")
    return {"embed_tokens": tokens} | {spec.name: spec for spec in ple_tables(c)}


def ple_tables(config: TextShape) -> list[WeightSpec]:
    """The per-layer table, one for each of ``ple_groups``: ``[ple_vocab, layers of the group * ple_dim]``."""
    c, name = config, "embed_tokens_per_layer"
    groups = c.ple_groups or (tuple(range(c.num_layers)),)
    tables = []
    for number, layers in enumerate(groups):
        columns = tuple((i * c.ple_dim, (i + 1) * c.ple_dim) for i in layers) if len(groups) > 1 else None
        shape = (c.ple_vocab_size, len(layers) * c.ple_dim)
        own = f"{name}.{number}" if number else name
        tables.append(WeightSpec(own, shape, "ple", f"{name}.weight", columns=columns))
    return tables


def ple_row(token: int, config: TextShape) -> int:
    """The PLE row of ``token``; ids outside the table (image, audio) look up row 0."""
    return token if 0 <= token < config.ple_vocab_size else 0


class EmbeddingTables:
    """Looks up scaled rows of both tables and reads only those; ``recipe`` rounds them as a bundle would."""

    def __init__(
        self, config: TextShape, read: Callable[[WeightSpec, tuple[int, int]], Tensor], recipe: Recipe | None = None
    ) -> None:
        self.config = config
        self._read = read
        self._recipe = recipe
        self._specs = embedding_weights(config)

    def embeddings(self, ids: Sequence[int]) -> Tensor:
        """``[1, T, hidden]`` float32: rows times ``sqrt(hidden)``."""
        if bad := [i for i in ids if not 0 <= i < self.config.vocab_size]:
            raise G3nError(f"token id {bad[0]} is outside the vocabulary of {self.config.vocab_size}")
        return self._rows("embed_tokens", ids).unsqueeze(0) * math.sqrt(self.config.hidden_size)

    def ple(self, ids: Sequence[int]) -> Tensor:
        """``[1, T, layers, ple_dim]`` float32: rows times ``sqrt(ple_dim)``."""
        c = self.config
        numbers = [ple_row(i, c) for i in ids]
        tables = [self._rows(spec.name, numbers).view(1, len(ids), -1, c.ple_dim) for spec in ple_tables(c)]
        rows = torch.cat(tables, 2)
        if c.ple_groups:
            order = [layer for group in c.ple_groups for layer in group]
            rows = rows[:, :, [order.index(layer) for layer in range(c.num_layers)]]
        return rows * math.sqrt(c.ple_dim)

    def _rows(self, table: str, ids: Sequence[int]) -> Tensor:
        spec = self._specs[table]
        rows = torch.cat([self._read(spec, (i, i + 1)) for i in ids])
        return rows if self._recipe is None else fake_quantize(rows, self._recipe.scheme(spec))
