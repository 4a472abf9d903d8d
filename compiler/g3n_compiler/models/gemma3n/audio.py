"""The Gemma 3n audio encoder, functional, for a whole clip or a stream, written so that delegates take it whole.

Reference: ``transformers`` ``Gemma3nAudioEncoder`` (eager, fp32), the conformer of the Universal Speech Model (arXiv
2303.01037). It differs in form, not in result:

* Attention reaches ``past`` frames back from each frame. The reference divides time into chunks with their left
  context, which attend to the same keys; this file does too, but divides wherever it is cheapest.
* Everything that depends on frames other than the current ones goes through :class:`Time`, so a stream runs the same
  code with a memory (:mod:`.audio_stream`).
* The last layer finishes only the frames that remain after the reduction.

Frames past a clip's end (``mask`` 0) have no effect. The same holds in the reference for a single clip; in a batch,
though, the reference lets the padding of shorter clips into the two convolutions, which changes their last soft token.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from g3n_compiler.models.dialect import Dialect
from g3n_compiler.models.gemma3n.audio_weights import POSITIONS, QUERY_SCALE, TOWER
from g3n_compiler.models.gemma3n.tower_config import AudioConfig
from g3n_compiler.models.weights import Weights

MASKED = -1e9
"""Added to the logit of a masked key; logits are capped far below its magnitude."""
EPS = 1e-6
"""Epsilon of the norms that the reference leaves at its default, regardless of ``rms_norm_eps``."""


class Time(Protocol):
    """Access to what comes before and after the current frames."""

    def window(self, name: str, x: Tensor) -> Tensor:
        """``x [1, T, bins, channels]`` with the other frames that a convolution of 3 frames, stride 2, reads for its
        T/2 outputs.
        """

    def extend(self, name: str, x: Tensor, frames: int) -> Tensor:
        """``x [1, T, ...]`` with the ``frames`` before it; zeros where there are none."""

    def normalize(self, name: str, x: Tensor, valid: Tensor, ops: AudioOps) -> tuple[Tensor, Tensor]:
        """``x [1, T, bins, channels]`` minus its cumulative mean, and the cumulative variance ``[1, T, 1, 1]``.

        Frames where ``valid [1, T, 1, 1]`` is 0 are not counted.
        """


class AudioOps(Dialect):
    """The operations that backends need written differently; this is plain PyTorch, for eager mode and ONNX."""

    def subsample(self, x: Tensor, weight: Tensor) -> Tensor:
        """``x [1, T, bins, in]`` -> ``[1, (T - 1) / 2, (bins + 1) / 2, out]``.

        Stride 2 in both directions, with one bin of padding on either side and none in time. ``weight`` is ``[out, 3,
        3, in]``, or ``[1, 3, 3, out]`` if there is one input channel.
        """
        filters = weight.permute(3, 0, 1, 2) if x.shape[-1] == 1 else weight.permute(0, 3, 1, 2)
        return F.conv2d(x.permute(0, 3, 1, 2), filters, stride=2, padding=(0, 1)).permute(0, 2, 3, 1)

    def depthwise(self, x: Tensor, weight: Tensor) -> Tensor:
        """``x [1, T, K]``, ``weight [1, 1, width, K]`` -> ``[1, T - width + 1, K]``, with one filter per channel."""
        y = F.conv1d(x.permute(0, 2, 1), weight.permute(3, 0, 1, 2).squeeze(1), groups=x.shape[-1])
        return y.permute(0, 2, 1)

    def frame_mean(self, x: Tensor) -> Tensor:
        """Mean over each frame of ``[1, T, bins, channels]`` -> ``[1, T, 1, 1]``."""
        return self.mean(x.reshape(1, x.shape[1], 1, -1))

    def cumsum(self, x: Tensor) -> Tensor:
        """Cumulative sums ``[1, T, 1, 1]`` over frames, as products with triangular matrices: no delegate takes a
        cumsum.
        """
        frames = x.shape[1]
        length = math.isqrt(frames - 1) + 1
        rows = -(-frames // length)
        within = _pad(x, rows * length).reshape(rows, length) @ _triangle(length, 0)
        before = within[:, -1:].reshape(1, rows) @ _triangle(rows, 1)
        return (within + before.reshape(rows, 1)).reshape(1, rows * length, 1, 1)[:, :frames]


class Clip:
    """A whole clip, with nothing before its first frame or after its last. See :class:`Time`."""

    def window(self, name: str, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, 0, 1 + x.shape[1] % 2))

    def extend(self, name: str, x: Tensor, frames: int) -> Tensor:
        return _pad(x, before=frames)

    def normalize(self, name: str, x: Tensor, valid: Tensor, ops: AudioOps) -> tuple[Tensor, Tensor]:
        share = torch.tensor([1 / (t + 1) for t in range(x.shape[1])]).view(1, -1, 1, 1)
        centred = x - ops.cumsum(ops.frame_mean(x)) * share
        return centred, ops.cumsum(ops.frame_mean(centred * centred)) * share


class AudioEncoder:
    """The tower's arithmetic over any :class:`Weights` and :class:`AudioOps`.

    Args:
        observe: called with the number of each layer and its input.
    """

    def __init__(
        self,
        config: AudioConfig,
        weights: Weights,
        ops: AudioOps | None = None,
        observe: Callable[[int, Tensor], None] | None = None,
    ) -> None:
        self.config = config
        self.weights = weights
        self.ops = ops or AudioOps()
        self._observe = observe or (lambda layer, x: None)

    # -- entry points ------------------------------------------------------------------------------------------------

    def encode(self, mel: Tensor, mask: Tensor) -> Tensor:
        """Encode a whole clip -> features ``[1, ceil(T / frames_per_token), hidden]``, zero past the clip's end.

        Args:
            mel: ``[1, T, mel_bins]`` float, log-mel frames of 10 ms.
            mask: ``[1, T]`` float, 1 for the clip's own frames and 0 for the padding after them.
        """
        half = every(mask, 2)
        quarter = every(half, 2)
        frames = self.subsample(mel * mask.unsqueeze(-1), half, quarter, Clip())
        return self.conform(frames, quarter, Clip())

    # -- the parts, in order -------------------------------------------------------------------------------------------

    def subsample(self, mel: Tensor, half: Tensor, quarter: Tensor, time: Time) -> Tensor:
        """Two convolutions of stride 2 with cumulative group norm, then a projection -> ``[1, T / 4, hidden]``.

        ``half`` and ``quarter`` are the masks of the frames after each convolution. A frame depends on 6 mel frames (60
        ms) past its own first one, and on nothing later.
        """
        p = TOWER + "subsample_conv_projection."
        x = mel.unsqueeze(-1)
        for i, valid in enumerate((half, quarter)):
            x = self.ops.subsample(time.window(f"conv_{i}", x), self.weights.tensor(f"{p}conv_{i}.conv"))
            valid = valid.view(1, -1, 1, 1)
            centred, variance = time.normalize(f"norm_{i}", x, valid, self.ops)
            scale = self.weights.tensor(f"{p}conv_{i}.norm")
            x = F.relu(centred * torch.rsqrt(variance + self.config.group_norm_eps) * scale) * valid
        return self.weights.linear(p + "input_proj_linear", x.reshape(1, x.shape[1], -1))

    def conform(self, x: Tensor, valid: Tensor, time: Time, first: int = 0) -> Tensor:
        """Run all layers over frames ``x [1, T, hidden]`` -> those that become soft tokens, zero where not ``valid``.

        These are frame ``first`` and every ``reduction``-th frame after it.
        """
        mask, keep = self.attention_mask(valid, time), valid.unsqueeze(-1)
        last = self.config.num_layers - 1
        for i in range(self.config.num_layers):
            self._observe(i, x)
            x = self.layer(i, x, mask, keep, time, (self.config.reduction, first) if i == last else (1, 0))
        return x * every(keep, self.config.reduction, first)

    def layer(self, i: int, x: Tensor, mask: Tensor, keep: Tensor, time: Time, kept: tuple[int, int]) -> Tensor:
        """Run layer ``i`` over frames ``x [1, T, hidden]`` -> the frames ``kept``, see :func:`every`.

        Args:
            mask: from :meth:`attention_mask`.
            keep: ``[1, T, 1]``, 1 for valid frames.
        """
        p = f"{TOWER}conformer.{i}."
        x = self.feed_forward(p + "ffw_layer_start.", x)
        x = self.attention(p + "attention.", x, mask, time) * keep
        x = self.light_conv(p + "lconv1d.", x, time, kept)
        x = self.feed_forward(p + "ffw_layer_end.", x)
        return self.norm(p + "norm", self._clip(x))

    def feed_forward(self, p: str, x: Tensor) -> Tensor:
        """A half-step feed-forward layer, normalised on both sides."""
        y = self.weights.linear(p + "ffw_layer_1", self.norm(p + "pre_layer_norm", self._clip(x)))
        y = self._clip(self.weights.linear(p + "ffw_layer_2", F.silu(y)))
        return x + self.norm(p + "post_layer_norm", y) * self.config.residual_weight

    def attention(self, p: str, x: Tensor, mask: Tensor, time: Time) -> Tensor:
        """Attention of each frame over itself and the ``past`` frames before it, with relative positions and capped
        logits.

        Args:
            x: ``[1, T, hidden]``.
            mask: ``[1, blocks, queries, keys]``, from :meth:`attention_mask`.
        """
        c, a = self.config, p + "attn."
        y = self.norm(p + "pre_attn_norm", self._clip(x))
        shape = (1, -1, c.num_heads, c.head_dim)
        query = self.weights.linear(a + "q_proj", y).view(shape) * self.weights.tensor(a + QUERY_SCALE)
        key, value = (
            time.extend(a + part, self.weights.linear(f"{a}{part}_proj", y).view(shape), c.past) for part in "kv"
        )
        blocks, length = mask.shape[1:3]
        query = _pad(query, blocks * length).view(blocks, length, c.num_heads, c.head_dim).permute(2, 0, 1, 3)
        key, value = (self._contexts(z, blocks, length).permute(2, 0, 1, 3) for z in (key, value))
        logits = query @ key.transpose(-1, -2) + self._positions(a, query)
        logits = torch.tanh(logits * (1 / c.logit_cap)) * c.logit_cap + mask
        y = (torch.softmax(logits, -1) @ value).permute(1, 2, 0, 3).reshape(1, blocks * length, c.hidden_size)
        y = self._clip(self.weights.linear(p + "post", y[:, : x.shape[1]]))
        return x + self.norm(p + "post_norm", y)

    def light_conv(self, p: str, x: Tensor, time: Time, kept: tuple[int, int]) -> Tensor:
        """Gated causal depthwise convolution over time; returns the frames ``kept``, see :func:`every`."""
        c = self.config
        y = self.weights.linear(p + "linear_start", self.norm(p + "pre_layer_norm", x, c.rms_norm_eps))
        y = y[..., : c.hidden_size] * torch.sigmoid(y[..., c.hidden_size :])
        y = time.extend(p + "conv", y, c.conv_kernel - 1)
        y = self.ops.depthwise(y, self.weights.tensor(p + "depthwise_conv1d"))
        x, y = every(x, *kept), every(y, *kept)
        y = F.silu(self.norm(p + "conv_norm", self._clip(y), c.rms_norm_eps))
        return x + self.weights.linear(p + "linear_end", y)

    # -- small pieces ----------------------------------------------------------------------------------------------

    def norm(self, name: str, x: Tensor, eps: float = EPS) -> Tensor:
        """RMS norm over the last dimension."""
        return x * torch.rsqrt(self.ops.mean(x * x) + eps) * self.weights.tensor(name)

    def _clip(self, x: Tensor) -> Tensor:
        return torch.clamp(x, -self.config.clipping, self.config.clipping)

    def attention_mask(self, valid: Tensor, time: Time) -> Tensor:
        """What to add to logits ``[heads, blocks, queries, keys]``: :data:`MASKED` where a key is masked.

        Queries come in blocks of ``past`` frames, or in one block if there are fewer; keys begin ``past`` frames
        earlier.
        """
        length = min(self.config.past, valid.shape[1])
        blocks = -(-valid.shape[1] // length)
        known = time.extend("valid", valid, self.config.past)
        known = self._contexts(known, blocks, length).view(1, blocks, 1, -1)
        keys = length + self.config.past
        near = torch.tensor([[float(0 <= k - q <= self.config.past) for k in range(keys)] for q in range(length)])
        return (1 - known * near.view(1, 1, length, keys)) * MASKED

    def _contexts(self, x: Tensor, blocks: int, length: int) -> Tensor:
        """``x [1, past + T, ...]`` as overlapping contexts ``[blocks, past + length, ...]``."""
        if blocks == 1:
            return x
        x = _pad(x, self.config.past + blocks * length)
        shape = (blocks, length, *x.shape[2:])
        return torch.cat((x[:, : blocks * length].reshape(shape), x[:, length:].reshape(shape)), 1)

    def _positions(self, a: str, query: Tensor) -> Tensor:
        """Logits ``[heads, blocks, queries, keys]`` for the distances between queries and keys."""
        heads, blocks, length, dim = query.shape
        span, keys = self.config.past + 1, self.config.past + length
        table = self.weights.tensor(a + POSITIONS)
        logits = query.reshape(heads, blocks * length, dim) @ table.transpose(-1, -2)
        # Row q must begin q keys later: with rows stored one longer than read, each row shifts by one more.
        logits = F.pad(logits, (0, keys + 1 - span)).reshape(heads, blocks, length * (keys + 1))
        return logits[..., : length * keys].reshape(heads, blocks, length, keys)


def _triangle(n: int, diagonal: int) -> Tensor:
    """``torch.ones(n, n).triu(diagonal)`` as a constant that converters do not recompute."""
    return torch.tensor([[float(j >= i + diagonal) for j in range(n)] for i in range(n)])


def every(x: Tensor, step: int, first: int = 0) -> Tensor:
    """``x[:, first::step]``, written so that delegates take it."""
    if step == 1:
        return x
    groups = -(-x.shape[1] // step)
    grouped = _pad(x, groups * step).reshape(1, groups, step, *x.shape[2:])
    return grouped[:, :, first : first + 1].reshape(1, groups, *x.shape[2:])


def _pad(x: Tensor, frames: int = 0, before: int = 0) -> Tensor:
    """``x [1, T, ...]`` with zeros after it, up to ``frames``, or with ``before`` zeros in front."""
    after = max(frames - x.shape[1], 0)
    return F.pad(x, (*(0, 0) * (x.dim() - 2), before, after)) if before or after else x
