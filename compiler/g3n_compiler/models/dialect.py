"""The few operations that backends need written differently; a backend overrides those its delegate would refuse."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class Dialect:
    """Plain PyTorch, for eager mode, ONNX and LiteRT."""

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

    def matmul_transposed(self, a: Tensor, b: Tensor) -> Tensor:
        """``a [1, 1, M, K] @ b [1, 1, N, K].T -> [1, 1, M, N]``."""
        return torch.matmul(a, b.transpose(2, 3))

    def conv(self, x: Tensor, kernel: Tensor, bias: Tensor | None, stride: int, depthwise: bool) -> Tensor:
        """Convolution of ``x [1, H, W, C]`` with TensorFlow's "same" padding, which outputs ``ceil(H / stride)`` rows.

        ``kernel`` is ``[out, k, k, in]``, or ``[1, k, k, C]`` if ``depthwise``: TFLite's own layouts.
        """
        size = kernel.shape[1]
        before_h, after_h = same_padding(x.shape[1], size, stride)
        before_w, after_w = same_padding(x.shape[2], size, stride)
        channels_first = x.permute(0, 3, 1, 2)
        weight = kernel.permute((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
        groups = weight.shape[0] if depthwise else 1
        if (before_h, before_w) == (after_h, after_w):
            y = F.conv2d(channels_first, weight, bias, stride, (before_h, before_w), groups=groups)
        else:
            padded = F.pad(channels_first, (before_w, after_w, before_h, after_h))
            y = F.conv2d(padded, weight, bias, stride, groups=groups)
        return y.permute(0, 2, 3, 1)

    def average_pool(self, x: Tensor, size: int) -> Tensor:
        """Mean of each ``size`` x ``size`` square of ``[1, H, W, C]``."""
        return F.avg_pool2d(x.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)

    def layer_rows(self, ple: Tensor, i: int) -> Tensor:
        """Layer ``i`` of ``[1, T, layers, ple_dim]`` -> ``[1, T, ple_dim]``."""
        return ple[:, :, i]


def same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after ``length`` positions in TensorFlow's "same" padding."""
    total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2
