"""From a tower into the text model's space: its soft tokens, and its hard token ids (end of image, end of audio).

Reference: ``transformers`` ``Gemma3nMultimodalEmbedder``, and ``Gemma3nModel.forward`` for which ids it takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from g3n_compiler.models.dialect import Dialect
from g3n_compiler.models.gemma3n.tower_config import EmbedderConfig, Tower
from g3n_compiler.models.weights import LazyWeights, Read, Role, Weights, WeightSpec


class Embedder:
    """``Gemma3nMultimodalEmbedder`` of one tower: projects soft tokens or hard ids into the text model's space."""

    def __init__(self, config: EmbedderConfig, tower: Tower, weights: Weights, dialect: Dialect | None = None) -> None:
        self.config, self.weights, self.dialect = config, weights, dialect or Dialect()
        self._prefix = f"embed_{tower}."

    def soft(self, features: Tensor) -> Tensor:
        """``[1, T, tower width]`` -> ``[1, T, hidden]``."""
        return self._project(self._norm("soft_embedding_norm", features))

    def hard(self, row: Tensor) -> Tensor:
        """Rows ``[1, T, tower width]`` of the tower's own embedding table -> ``[1, T, hidden]``."""
        return self._project(self._norm("hard_embedding_norm", row))

    def _project(self, x: Tensor) -> Tensor:
        return self._norm(None, self.weights.linear(self._prefix + "embedding_projection", x))

    def _norm(self, name: str | None, x: Tensor) -> Tensor:
        y = x * torch.rsqrt(self.dialect.mean(x * x) + self.config.rms_norm_eps)
        return y if name is None else y * self.weights.tensor(self._prefix + name)


def embedder_weights(config: EmbedderConfig, tower: Tower, hidden_size: int) -> dict[str, WeightSpec]:
    """Weights of an :class:`Embedder`, including the table of hard tokens."""
    width = config.hidden_size
    shapes: dict[str, tuple[tuple[int, ...], Role]] = {
        "embedding": ((config.vocab_size, width), "float"),
        "hard_embedding_norm": ((width,), "float"),
        "soft_embedding_norm": ((width,), "float"),
        "embedding_projection": ((hidden_size, width), tower),
    }
    specs = [
        WeightSpec(f"embed_{tower}.{name}", shape, role, f"embed_{tower}.{name}.weight")
        for name, (shape, role) in shapes.items()
    ]
    return {spec.name: spec for spec in specs}


class HardTokenRows:
    """The towers' hard tokens as rows of the token table, so that a look-up by any engine returns their true
    embeddings.

    Args:
        embedders: those of the towers that are compiled.
        read: reads a weight from the checkpoint.
        hidden_size: that of the text model.
    """

    def __init__(self, embedders: Mapping[Tower, EmbedderConfig], read: Read, hidden_size: int) -> None:
        self.embedders = dict(embedders)
        self._rows = {
            id: row
            for tower, config in embedders.items()
            for id, row in zip(config.ids, embed_hard_tokens(config, tower, read, hidden_size), strict=True)
        }
        self._unscaled = 1 / math.sqrt(hidden_size)

    def __call__(self, begin: int, rows: Tensor) -> Tensor:
        """Rows ``[begin, begin + n)`` of the token table, with those of hard tokens replaced.

        A look-up multiplies every row by ``sqrt(hidden)``, which must not happen to a hard token's row, so it is
        divided here.
        """
        hard = [i for i in range(begin, begin + rows.shape[0]) if i in self._rows]
        if hard:
            rows = rows.clone()
            rows[[i - begin for i in hard]] = torch.stack([self._rows[i] for i in hard]) * self._unscaled
        return rows


@torch.no_grad()
def embed_hard_tokens(config: EmbedderConfig, tower: Tower, read: Read, hidden_size: int) -> Tensor:
    """``[vocab_size, hidden]`` float32: the embedding of each hard token of ``tower`` in the text model's space."""
    specs = embedder_weights(config, tower, hidden_size)
    weights = LazyWeights(read, specs)
    return Embedder(config, tower, weights).hard(weights.tensor(f"embed_{tower}.embedding"))
