"""The audio tower's exported entry points, with weights as inputs.

LiteRT-LM's stock engine calls ``encode`` for each stretch of a sound, and ``adapt`` for what came of it. The names are
those of its encoder for streams (``AudioStreamingEncoder`` in ``audio_litert_compiled_model_executor.cc``), which it
chooses where an input is called ``prev_...``. It gives each call as many hops as ``segment_mask`` has, of which the
last ones, as many as ``feature_state_0`` has elements, come again in the next call; it hands back every input that is
an output too. Where a conversation begins it sets those to zero, and ``prev_mask`` to true; between two sounds of one
conversation LiteRT-LM 0.18.1 does not, so the graph sees by itself where another sound begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from g3n_compiler.lower.signatures.text import GraphWeights, streams_name
from g3n_compiler.models.gemma3n.audio import AudioEncoder, every
from g3n_compiler.models.gemma3n.audio_mel import LOST, LogMelGraph
from g3n_compiler.models.gemma3n.audio_stream import by_clip, layer_state, state_shapes, step
from g3n_compiler.models.gemma3n.audio_weights import (
    EMBEDDER,
    PADDING,
    audio_embedder_weights,
    audio_weights,
    padding_weight,
)
from g3n_compiler.models.gemma3n.soft_tokens import Embedder
from g3n_compiler.models.gemma3n.tower_config import AudioConfig
from g3n_compiler.models.weights import WeightSpec
from g3n_runtime.litert.audio_names import ENDED, OVERLAPPED
from g3n_runtime.media.mel import HOP

ENCODE, ADAPT = "audio_encode", "audio_adapt"
FRONT_NAMES = {
    "mask": "prev_frames_mask",
    "conv_0": "prev_features",
    "norm_0": "feature_state_0",
    "conv_1": "prev_conv_features",
    "norm_1": "feature_state_1",
    "valid": "prev_conv_out_mask",
}
"""What the engine's contract calls the state before the layers' state."""


class AudioSignature(nn.Module):
    """A signature's function. Weights come as one flat mapping by :attr:`WeightSpec.input_name`.

    Args:
        layer_outputs: also return the input of each layer, under :func:`.text.streams_name`.
    """

    def __init__(self, config: AudioConfig, specs: Mapping[str, WeightSpec], layer_outputs: bool = False) -> None:
        super().__init__()
        self.config = config
        self.specs = specs
        self.layer_outputs = layer_outputs

    def encoder(self, weights: Mapping[str, Tensor], between: dict[str, Tensor]) -> AudioEncoder:
        """The encoder; it adds the extra tensors that are to be returned to ``between``."""

        def observe(layer: int, x: Tensor) -> None:
            if self.layer_outputs:
                between[streams_name(layer)] = x

        return AudioEncoder(self.config, GraphWeights(weights, self.specs), observe=observe)

    def embedder(self, weights: Mapping[str, Tensor]) -> Embedder:
        return Embedder(self.config.embedder, "audio", GraphWeights(weights, self.specs))

    def sample_inputs(self) -> dict[str, Any]:
        """Inputs other than weights: zeros of the right shapes and dtypes."""
        raise NotImplementedError

    def trace_inputs(self) -> dict[str, Any]:
        """Inputs to trace on; each weight is a placeholder without data."""
        return self.sample_inputs() | {s.input_name: torch.empty(s.shape) for s in self.specs.values()}


class Encode(AudioSignature):
    """Sound at 16 kHz, a longest clip's length at a time -> features (``by_clip`` of ``models.gemma3n.audio_stream``).

    A sound no longer than the longest clip takes one call, and gets as many soft tokens as the longest clip: like the
    reference, which puts the padding's embedding (:class:`Adapt`) where there are no features. A longer one gets the
    soft tokens that it has.

    Args of the call:
        prev_mask: ``[1, 1]`` bool, true if the sound of the call before has ended. The states are then read as zeros.
        prev_overlap: ``[1, LOST, HOP]`` float, the last hops of the call before. If the first hops here are others,
            that means what ``prev_mask`` does: a sound that ended with a call's last hop is known by this alone.
        segment_mask: ``[1, S + LOST]`` bool, true for hops that belong to the sound. ``S`` hops are new to the state,
            the others complete the last windows, and come again.
        segment_values: ``[1, S + LOST, HOP]`` float, the sound in hops of 10 ms.
        states: by :func:`state_names`, float.

    Returns:
        ``features [1, S / 16, hidden]`` float, zero past the sound's end; ``mask [1, S / 16]`` bool, true for soft
        tokens, all in the first call; ``prev_mask``, true if the sound ended before this call's last hop;
        ``prev_overlap``; and the states.
    """

    def __init__(self, config: AudioConfig, layer_outputs: bool = False) -> None:
        super().__init__(config, audio_weights(config), layer_outputs)
        self.mel = LogMelGraph(config.mel_bins)
        self.cut = by_clip(config)
        self.names = state_names(config)

    def forward(
        self, prev_mask: Tensor, prev_overlap: Tensor, segment_mask: Tensor, segment_values: Tensor, **rest: Tensor
    ) -> dict[str, Tensor]:
        differ = torch.amax(torch.abs(segment_values[:, :LOST] - prev_overlap).reshape(1, -1), -1, keepdim=True)
        goes_on = (1 - prev_mask.to(torch.float32)) * (1 - (differ > 0).to(torch.float32))
        state = {own: rest[name] * _as_wide(goes_on, rest[name]) for own, name in self.names.items()}
        weights = {s.input_name: rest[s.input_name] for s in self.specs.values()}
        known = segment_mask.to(torch.float32)[:, LOST:]
        between: dict[str, Tensor] = {}
        features, after = step(self.encoder(weights, between), self.mel.whole(segment_values), known, state, self.cut)
        heard = every(known, self.config.frames_per_token)
        count = state["norm_0"][:, :1].reshape(1, 1)
        return {
            "features": features,
            "mask": heard + (1 - torch.clamp(count, max=1.0)) > 0.5,
            ENDED: known[:, -1:] < 0.5,
            OVERLAPPED: segment_values[:, -LOST:],
            **{name: after[own] for own, name in self.names.items()},
            **between,
        }

    def sample_inputs(self) -> dict[str, Any]:
        hops = self.cut.frames + LOST
        shapes = state_shapes(self.config, self.cut)
        return {
            ENDED: torch.ones(1, 1, dtype=torch.bool),
            OVERLAPPED: torch.zeros(1, LOST, HOP),
            "segment_mask": torch.ones(1, hops, dtype=torch.bool),
            "segment_values": torch.zeros(1, hops, HOP),
            **{name: torch.zeros(shapes[own]) for own, name in self.names.items()},
        }


class Adapt(AudioSignature):
    """Features -> soft tokens in the text model's space.

    Returns:
        ``mm_embedding [1, N, text_hidden]``; the padding's embedding where the features are zero.
    """

    def __init__(self, config: AudioConfig) -> None:
        super().__init__(config, soft_weights(config) | {PADDING: padding_weight(config)})

    def forward(self, mask: Tensor, features: Tensor, **weights: Tensor) -> dict[str, Tensor]:
        embedder = self.embedder(weights)
        loudest = torch.amax(torch.abs(features), -1, keepdim=True)
        heard = (loudest > 0).to(torch.float32) * mask.to(torch.float32).unsqueeze(-1)
        return {"mm_embedding": embedder.soft(features) * heard + embedder.weights.tensor(PADDING) * (1 - heard)}

    def sample_inputs(self) -> dict[str, Any]:
        n = self.config.max_soft_tokens
        return {
            "mask": torch.ones(1, n, dtype=torch.bool),
            "features": torch.zeros(1, n, self.config.hidden_size),
        }


def state_names(config: AudioConfig) -> dict[str, str]:
    """What :class:`Encode` carries from call to call: its name there, by that in ``models.gemma3n.audio_stream``."""
    names = dict(FRONT_NAMES)
    for i in range(config.num_layers):
        names |= layer_names(i)
    return names


def layer_names(layer: int) -> dict[str, str]:
    """As :func:`state_names`, of one layer's state."""
    own = layer_state(layer)
    return dict(zip(own, (f"prev_k_{layer}", f"prev_v_{layer}", f"conv_padding_{layer}"), strict=True))


def soft_weights(config: AudioConfig) -> dict[str, WeightSpec]:
    """The embedder's weights that soft tokens go through."""
    specs = audio_embedder_weights(config)
    return {name: specs[name] for name in (EMBEDDER + "soft_embedding_norm", EMBEDDER + "embedding_projection")}


def _as_wide(factor: Tensor, x: Tensor) -> Tensor:
    """``factor [1, 1]`` with as many dimensions as ``x``."""
    return factor.reshape((1,) * x.dim())
