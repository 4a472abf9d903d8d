"""The decoder's arithmetic in the form that is cheapest for LiteRT's XNNPACK: AltUp's streams as one tensor.

A multiply-add for each pair of streams would pass over a chunk's activations about forty times per layer. Side by side,
as ``[1, T, streams, hidden]``, the streams are mixed by one small product for each token.

The GPU delegate takes the first dimension of every tensor for a batch, and computes wrongly, or not at all, where that
is not 1. So tokens are never the first dimension of what is computed here.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from g3n_compiler.models.family import State, Streams
from g3n_compiler.models.gemma3n.decoder import TextDecoder


def batch_matmul(a: Tensor, b: Tensor) -> Tensor:
    """``a [1, B, M, K] @ b [1, B, K, N] -> [1, B, M, N]`` as one operator; PyTorch's own would drop the first axis."""
    importlib.import_module("litert_torch.backend.experimental.torch_tfl")
    product: Tensor = torch.ops.tfl.batch_matmul(a, b)
    return product


class LiteRtDecoder(TextDecoder):
    """:class:`TextDecoder` over streams ``[1, T, altup_num_inputs, hidden]``."""

    def join(self, *streams: Tensor) -> Streams:
        return torch.cat([s.view(1, -1, 1, self.config.hidden_size) for s in streams], 2)

    def split(self, streams: Streams) -> Sequence[Tensor]:
        return [self._stream(streams, a) for a in range(self.config.altup_num_inputs)]

    def active(self, streams: Streams) -> Tensor:
        return self._stream(streams, self.config.altup_active_idx)

    def predict(self, i: int, streams: Streams) -> Streams:
        n = self.config.altup_num_inputs
        routed = self._route(i, self.active(streams))
        coefs = F.linear(routed, self.weights.tensor(f"layers.{i}.altup.prediction_coefs")).view(1, -1, n, n)
        return streams + batch_matmul(coefs, streams)

    def advance(self, i: int, predicted: Streams, activated: Tensor, state: State) -> Streams:
        """``stream_a + coef_a * innovation``, and ``+ injected`` for all but the first, as one product."""
        c = self.config
        routed = self._route(i, activated)
        coefs = F.linear(routed, self.weights.tensor(f"layers.{i}.altup.correction_coefs")) + 1.0
        before = self.active(predicted)
        innovation = activated - before
        corrected = before + innovation * coefs[..., c.altup_active_idx : c.altup_active_idx + 1]
        injected = self.inject_ple(i, corrected, state)
        own = coefs.view(1, -1, c.altup_num_inputs, 1)
        passive = torch.ones(1, 1, c.altup_num_inputs, 1)
        passive[:, :, 0] = 0
        # By arithmetic, because a constant that is repeated for each token becomes BROADCAST_TO, which no GPU takes.
        factors = torch.cat((own, own * 0.0 + passive), 3)
        added = torch.cat([x.view(1, -1, 1, c.hidden_size) for x in (innovation, injected)], 2)
        return predicted + batch_matmul(factors, added)

    def _stream(self, streams: Tensor, a: int) -> Tensor:
        return streams[:, :, a : a + 1].reshape(1, -1, self.config.hidden_size)
