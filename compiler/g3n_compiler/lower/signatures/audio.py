"""The audio tower's exported entry points, with weights as inputs.

LiteRT-LM's stock engine calls ``encode`` and ``adapt``, one after the other; ``stream`` is one step of the encoder and
the adapter together, with inputs from :mod:`g3n_runtime.media.mel`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from g3n_compiler.lower.signatures.text import GraphWeights, streams_name
from g3n_compiler.models.gemma3n.audio import AudioEncoder, every
from g3n_compiler.models.gemma3n.audio_mel import LOST, LogMelGraph
from g3n_compiler.models.gemma3n.audio_stream import empty_state, state_shapes, step
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
from g3n_runtime.media.mel import AUDIO_STREAM, HOP

ENCODE, ADAPT, STREAM = "audio_encode", "audio_adapt", AUDIO_STREAM


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
    """Sound at 16 kHz -> features of a whole clip, in the longest clip's shape.

    Args of the call:
        mask: ``[1, T]`` bool, true for hops that belong to the sound. It is the first argument, because the engine
            fills the first.
        src_inputs: ``[1, T, HOP]`` float, the sound in hops of 10 ms.

    Returns:
        ``features [1, T / 16, hidden]`` float, zero past the sound's end, and ``mask [1, T / 16]`` bool, all true: like
        the reference, the engine then gives every clip as many soft tokens as the longest clip, and :class:`Adapt` puts
        the padding's embedding where there are no features.
    """

    def __init__(self, config: AudioConfig, layer_outputs: bool = False) -> None:
        super().__init__(config, audio_weights(config), layer_outputs)
        self.mel = LogMelGraph(config.mel_bins)

    def forward(self, mask: Tensor, src_inputs: Tensor, **weights: Tensor) -> dict[str, Tensor]:
        known = F.pad(mask.to(torch.float32)[:, LOST:], (0, LOST))
        between: dict[str, Tensor] = {}
        features = self.encoder(weights, between).encode(self.mel(src_inputs), known)
        return {"features": features, "mask": every(known, self.config.frames_per_token) > -1.0, **between}

    def sample_inputs(self) -> dict[str, Any]:
        hops = self.config.max_soft_tokens * self.config.frames_per_token
        return {"mask": torch.ones(1, hops, dtype=torch.bool), "src_inputs": torch.zeros(1, hops, HOP)}


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


class StreamStep(AudioSignature):
    """One step of a stream -> ``soft_token [1, 1, text_hidden]`` and the state (``models.gemma3n.audio_stream``)."""

    def __init__(self, config: AudioConfig, layer_outputs: bool = False) -> None:
        super().__init__(config, audio_weights(config) | soft_weights(config), layer_outputs)

    def forward(self, mel: Tensor, known: Tensor, state: Mapping[str, Tensor], **weights: Tensor) -> dict[str, Tensor]:
        between: dict[str, Tensor] = {}
        features, after = step(self.encoder(weights, between), mel, known, state)
        named = {f"state_{name}": after[name] for name in state}
        return {"soft_token": self.embedder(weights).soft(features), **named, **between}

    def state_order(self) -> tuple[str, ...]:
        """Names of the state's outputs, in their order after ``soft_token``."""
        return tuple(f"state_{name}" for name in state_shapes(self.config))

    def sample_inputs(self) -> dict[str, Any]:
        n = self.config.frames_per_token
        mel = torch.zeros(1, n, self.config.mel_bins)
        return {"mel": mel, "known": torch.ones(1, n), "state": empty_state(self.config)}


def soft_weights(config: AudioConfig) -> dict[str, WeightSpec]:
    """The embedder's weights that soft tokens go through."""
    specs = audio_embedder_weights(config)
    return {name: specs[name] for name in (EMBEDDER + "soft_embedding_norm", EMBEDDER + "embedding_projection")}
