"""The few operations that backends want written differently; a backend overrides what its delegate would refuse."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class Dialect:
    """Plain PyTorch, as eager mode, ONNX and LiteRT take it."""

    def mean(self, x: Tensor) -> Tensor:
        """Mean over the last dimension, kept: ``[..., K] -> [..., 1]``."""
        return x.mean(-1, keepdim=True)

    def rotate_half(self, x: Tensor) -> Tensor:
        """``[a, b] -> [-b, a]`` over the two halves of the last dimension."""
        half = x.shape[-1] // 2
        return torch.cat((-x[..., half:], x[..., :half]), -1)

    def gelu(self, x: Tensor) -> Tensor:
        """GELU in its tanh form."""
        return F.gelu(x, approximate="tanh")

    def columns(self, x: Tensor, weight: Tensor) -> list[Tensor]:
        """``x [1, T, K] @ weight [N, K].T`` as N columns ``[1, T, 1]``."""
        y = F.linear(x, weight)
        return [y[..., k : k + 1] for k in range(weight.shape[0])]

    def mix(self, streams: Sequence[Tensor], coefs: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
        """``stream_a + sum_b coefs[a][b] * stream_b`` for each a."""
        out = []
        for own, row in zip(streams, coefs, strict=True):
            y = own
            for coef, stream in zip(row, streams, strict=True):
                y = y + coef * stream
            out.append(y)
        return tuple(out)

    def layer_rows(self, ple: Tensor, i: int) -> Tensor:
        """Layer ``i`` of ``[1, T, layers, ple_dim]`` -> ``[1, T, ple_dim]``."""
        return ple[:, :, i]
