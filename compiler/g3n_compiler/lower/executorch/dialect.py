"""The decoder's arithmetic in operators that XNNPACK takes with a dynamic number of tokens.

XNNPACK's partitioner refuses ``mean`` of three dimensions, and every ``select`` and ``slice`` of a tensor with a
dynamic shape. Each refusal would split the graph in two, so here these are written as products with constants.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from g3n_compiler.lower.executorch.weights import XnnpackWeights
from g3n_compiler.models.dialect import Dialect
from g3n_compiler.models.gemma3n.decoder import TextDecoder
from g3n_compiler.models.gemma3n.text_config import TextConfig


class XnnpackDialect(nn.Module, Dialect):
    """Constants are buffers, because XNNPACK takes a linear layer only if its weight is one."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.ple_dim = config.ple_dim
        for size in sorted({config.hidden_size, config.head_dim, config.ple_dim, *config.ffn_dims}):
            self.register_buffer(f"mean_{size}", torch.full((1, size), 1 / size))
        half = config.head_dim // 2
        rotation = torch.zeros(config.head_dim, config.head_dim)
        rotation[:half, half:] = -torch.eye(half)
        rotation[half:, :half] = torch.eye(half)
        self.register_buffer("rotation", rotation)
        self.register_buffer("eps", torch.tensor([config.rms_norm_eps]))
        self.register_buffer("one", torch.ones(1))

    def mean(self, x: Tensor, plus: str | None = None) -> Tensor:
        """Mean over the last dimension, kept; ``plus`` names a constant to add to it."""
        return F.linear(x, self.get_buffer(f"mean_{x.shape[-1]}"), None if plus is None else self.get_buffer(plus))

    def rotate_half(self, x: Tensor) -> Tensor:
        return F.linear(x, self.get_buffer("rotation"))

    def gelu(self, x: Tensor) -> Tensor:
        return gelu(x)

    def layer_rows(self, ple: Tensor, i: int) -> Tensor:
        """A module receives its own layer's rows: ``[1, T, ple_dim]`` -> ``[T, 1, ple_dim]``."""
        return ple.view(-1, 1, self.ple_dim)


def gelu(x: Tensor) -> Tensor:
    """GELU written out, with ``sigmoid(2 u)`` for ``(1 + tanh(u)) / 2``: XNNPACK's own is always the erf form."""
    scale = 2 * math.sqrt(2 / math.pi)
    return x * torch.sigmoid(x * (x * x * (0.044715 * scale) + scale))


class XnnpackDecoder(TextDecoder):
    """The decoder with its tokens along the first dimension: streams are ``[T, 1, hidden]``.

    AltUp's mixing is then a batch of T small products, with a tenth of the operators that a multiply-add for each pair
    takes.
    """

    weights: XnnpackWeights
    dialect: XnnpackDialect

    def __init__(self, config: TextConfig, weights: XnnpackWeights, dialect: XnnpackDialect) -> None:
        super().__init__(config, weights, dialect)

    def norm(self, name: str | None, x: Tensor) -> Tensor:
        y = x * torch.rsqrt(self.dialect.mean(x * x, "eps"))
        return y if name is None else y * self.weights.tensor(name)

    def predict(self, i: int, streams: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        n = self.config.altup_num_inputs
        routed = self._route(i, streams[self.config.altup_active_idx])
        stacked = torch.cat(streams, 1)
        rows = (
            F.linear(routed, self.weights.rows(f"layers.{i}.altup.prediction_coefs", a * n, (a + 1) * n))
            for a in range(n)
        )
        return tuple(own + torch.bmm(row, stacked) for own, row in zip(streams, rows, strict=True))

    def correct(self, i: int, predicted: tuple[Tensor, ...], activated: Tensor) -> tuple[Tensor, ...]:
        routed = self._route(i, activated)
        innovation = activated - predicted[self.config.altup_active_idx]
        name = f"layers.{i}.altup.correction_coefs"
        one = self.dialect.get_buffer("one")
        coefs = (F.linear(routed, self.weights.rows(name, a, a + 1), one) for a in range(len(predicted)))
        return tuple(s + innovation * coef for s, coef in zip(predicted, coefs, strict=True))
