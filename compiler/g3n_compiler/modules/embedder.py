"""Token embedding and per-layer embedding (PLE): two look-ups whose tables stay in flash.

Reference: ``Gemma3nTextScaledWordEmbedding`` and ``Gemma3nTextModel.get_per_layer_inputs``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from g3n_compiler.checkpoint.config import TextConfig
from g3n_compiler.errors import G3nError
from g3n_compiler.modules.weights import WeightSpec, embedding_weights, ple_tables
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.quantize.rows import fake_quantize


def ple_row(token: int, config: TextConfig) -> int:
    """The PLE row of ``token``: ids outside the table (image, audio) look up row 0."""
    return token if 0 <= token < config.ple_vocab_size else 0


class EmbeddingTables:
    """Looks up scaled rows of both tables, reading only those asked for; ``recipe`` rounds them as a bundle would."""

    def __init__(
        self, config: TextConfig, read: Callable[[WeightSpec, tuple[int, int]], Tensor], recipe: Recipe | None = None
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
