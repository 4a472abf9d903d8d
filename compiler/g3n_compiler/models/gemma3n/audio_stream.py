"""The audio encoder, fed piece by piece, in constant memory for any length of sound.

A soft token depends on 6 mel frames (60 ms) past its own first frame and on nothing later. Two ways to cut a sound
(:class:`Cut`) follow from that, here for 16 mel frames to a token and a longest clip of 188 tokens:

=============== ============================= ======================================================================
:func:`by_token```16k - 9 .. 16k + 6``        a step gives token ``k``, as early as is possible; it takes ``ceil(T /
                                              16)`` steps, the first of which has 7 real frames
:func:`by_clip` ``3008k .. 3008k + 3007``     a step gives the tokens that begin in it: for a sound no longer than the
                                              longest clip one step, in the time of a clip
=============== ============================= ======================================================================

Frames before the beginning and past the end of the sound are zeros with ``mask`` 0.

Every token, including the last, equals the whole-clip encoder's up to float32 rounding. The attention's past, the
convolutions' edges and the group norms' statistics are carried over exactly; nothing is cut at a step's border.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from g3n_compiler.models.gemma3n.audio import AudioEncoder, AudioOps, every
from g3n_compiler.models.gemma3n.tower_config import SUBSAMPLING, AudioConfig

LOOKAHEAD = 6
"""Mel frames past its own first one that a soft token depends on."""
FRONT_STATE: tuple[str, ...] = ("mask", "conv_0", "norm_0", "conv_1", "norm_1", "valid")
"""Names of the state before the layers' state, in the order of :func:`state_shapes`."""


@dataclass(frozen=True)
class Cut:
    """How a sound is cut into the steps of a stream.

    Attributes:
        frames: mel frames of a step.
        kept: mel frames before a step's own at which the first of its tower frames begins.
        first: of a step's tower frames, the one that becomes its first soft token.
    """

    frames: int
    kept: int
    first: int


def by_token(config: AudioConfig) -> Cut:
    """A step for each soft token, as early as is possible."""
    return Cut(config.frames_per_token, LOOKAHEAD + 1 - SUBSAMPLING, config.reduction - 1)


def by_clip(config: AudioConfig) -> Cut:
    """A step for each stretch of the longest clip's length.

    Its last tower frame needs mel frames of the next step, which gives it as its first. No soft token is made of it.
    """
    return Cut(config.max_soft_tokens * config.frames_per_token, SUBSAMPLING, 1)


def state_shapes(config: AudioConfig, cut: Cut) -> dict[str, tuple[int, ...]]:
    """What a stream carries from step to step: float32, all zeros before the first."""
    c = config
    shapes: dict[str, tuple[int, ...]] = {
        "mask": (1, cut.kept),
        "conv_0": (1, cut.kept - 2, c.bins[0], 1),
        "norm_0": (1, 3, 1, 1),
        "conv_1": (1, 1, c.bins[1], c.conv_channels[0]),
        "norm_1": (1, 3, 1, 1),
        "valid": (1, c.past),
    }
    for i in range(c.num_layers):
        for part in "kv":
            shapes[f"{part}_{i}"] = (1, c.past, c.num_heads, c.head_dim)
        shapes[f"light_conv_{i}"] = (1, c.conv_kernel - 1, c.hidden_size)
    return shapes


def layer_state(layer: int) -> tuple[str, ...]:
    """Names of the state of one layer."""
    return f"k_{layer}", f"v_{layer}", f"light_conv_{layer}"


def empty_state(config: AudioConfig, cut: Cut) -> dict[str, Tensor]:
    """The state before the first step."""
    return {name: torch.zeros(shape) for name, shape in state_shapes(config, cut).items()}


class Stream:
    """The memory of a stream during one step; see :class:`g3n_compiler.models.gemma3n.audio.Time`."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._before = state
        self.after: dict[str, Tensor] = {}

    def before(self, name: str) -> Tensor:
        """What the last step stored under ``name``."""
        return self._before[name]

    def window(self, name: str, x: Tensor) -> Tensor:
        return self.extend(name, x, self._before[name].shape[1])

    def extend(self, name: str, x: Tensor, frames: int) -> Tensor:
        name = _state_name(name)
        whole = torch.cat((self._before[name], x), 1)
        self.after[name] = whole[:, -frames:]
        return whole

    def normalize(self, name: str, x: Tensor, valid: Tensor, ops: AudioOps) -> tuple[Tensor, Tensor]:
        """Statistics are updated by the difference of the new frames from them, so that precision is not lost over
        time.
        """
        before = self._before[name]
        count, mean, variance = (before[:, i : i + 1] for i in range(3))
        counts = count + ops.cumsum(valid)
        share = torch.tensor([1.0]) / torch.clamp(counts, min=1.0)
        means = mean + ops.cumsum((ops.frame_mean(x) - mean) * valid) * share
        centred = x - means
        variances = variance + ops.cumsum((ops.frame_mean(centred * centred) - variance) * valid) * share
        self.after[name] = torch.cat((counts[:, -1:], means[:, -1:], variances[:, -1:]), 1)
        return centred, variances


def step(
    encoder: AudioEncoder, mel: Tensor, mask: Tensor, state: Mapping[str, Tensor], cut: Cut
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run one step -> the features of its soft tokens ``[1, N, hidden]``, and the state after it.

    Args:
        mel: ``[1, cut.frames, mel_bins]`` float; the module's docstring says which frames.
        mask: ``[1, cut.frames]`` float, 1 for frames that exist.
        state: as :func:`state_shapes`.
    """
    stream = Stream(state)
    frames, valid = subsample_step(encoder, mel, mask, stream)
    return encoder.conform(frames, valid, stream, cut.first), stream.after


def subsample_step(encoder: AudioEncoder, mel: Tensor, mask: Tensor, stream: Stream) -> tuple[Tensor, Tensor]:
    """The part of a step before the layers: its frames ``[1, T, hidden]``, and which of them are valid ``[1, T]``."""
    before = stream.before("mask")
    known = torch.cat((before, mask), 1)
    stream.after["mask"] = known[:, -before.shape[1] :]
    # The first convolution's outputs begin 2 mel frames after the last step's final tower frame.
    half = every(known[:, 2 : 2 + mask.shape[1]], 2)
    quarter = every(known[:, : mask.shape[1]], SUBSAMPLING)
    return encoder.subsample(mel * mask.unsqueeze(-1), half, quarter, stream), quarter


def _state_name(name: str) -> str:
    """``k_3`` of ``audio_tower.conformer.3.attention.attn.k``."""
    parts = name.split(".")
    if len(parts) == 1:
        return name
    return f"{'light_conv' if parts[-1] == 'conv' else parts[-1]}_{parts[2]}"
