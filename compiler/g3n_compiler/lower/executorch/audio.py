"""The audio tower as methods of an ExecuTorch program, as the stock runner calls them and as :mod:`g3n_runtime` does.

================ ================================================== ===================================================
``audio_encoder`` ``sound [1, T, 161]``                              MultimodalRunner: rows ``[1, N, width]`` of a clip
``audio_stream``  ``mel [1, 16, 128]``, ``known [1, 16]``, state     ``soft_token [1, 1, hidden]`` and the state
================ ================================================== ===================================================

A row of ``sound`` is a hop of 160 samples and then 1, or 0 past the sound's end: the runner's ``Audio`` has room for
one tensor. A row of the result is a soft token followed by the per-layer embeddings of id 0, as all soft tokens are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from g3n_compiler.checkpoint.multimodal import AudioConfig
from g3n_compiler.lower.backend import Delegation
from g3n_compiler.lower.executorch.delegation import measure, partitioned_calls
from g3n_compiler.lower.executorch.program import to_edge
from g3n_compiler.lower.executorch.weights import XnnpackWeights, checkpoint_parts
from g3n_compiler.modules.audio import AudioEncoder, AudioOps
from g3n_compiler.modules.audio_mel import LOST, LogMelGraph
from g3n_compiler.modules.audio_stream import state_shapes, step
from g3n_compiler.modules.audio_weights import PADDING, AudioReader, audio_weights, padding_weight
from g3n_compiler.modules.multimodal_embedder import Embedder
from g3n_compiler.modules.weights import Read, WeightSpec
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.trace.audio_signatures import soft_weights
from g3n_runtime.audio import HOP

ENCODER, STREAM = "audio_encoder", "audio_stream"


class XnnpackAudioOps(nn.Module, AudioOps):
    """Means as products with constants: XNNPACK takes no mean of fewer than four dimensions."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        frames = (config.bins[i + 1] * config.conv_channels[i] for i in range(2))
        for size in sorted({config.hidden_size, config.text_hidden_size, *frames}):
            self.register_buffer(f"mean_{size}", torch.full((1, size), 1 / size))

    def mean(self, x: Tensor) -> Tensor:
        return F.linear(x, self.get_buffer(f"mean_{x.shape[-1]}"))


class AudioMethod(nn.Module):
    """What both methods share: the weights, which lie in the program once."""

    def __init__(self, config: AudioConfig, weights: XnnpackWeights) -> None:
        super().__init__()
        self.config, self.weights, self.ops = config, weights, XnnpackAudioOps(config)

    def encoder(self) -> AudioEncoder:
        return AudioEncoder(self.config, self.weights, self.ops)

    def soft(self, features: Tensor) -> Tensor:
        return Embedder(self.config.embedder, "audio", self.weights, self.ops).soft(features)


class EncodeClip(AudioMethod):
    """``audio_encoder``; ``ple`` is the per-layer embedding of id 0, scaled, ``[layers * ple_dim]``, or empty."""

    ple: Tensor

    def __init__(self, config: AudioConfig, weights: XnnpackWeights, ple: Tensor) -> None:
        super().__init__(config, weights)
        self.mel = LogMelGraph(config.mel_bins)
        self.register_buffer("ple", ple.expand(1, config.max_soft_tokens, -1).clone())

    def forward(self, sound: Tensor) -> Tensor:
        hops, known = sound[..., :HOP], sound[..., HOP:].reshape(1, -1)
        known = torch.cat((known[:, LOST:], torch.zeros(1, LOST)), 1)
        soft = self.soft(self.encoder().encode(self.mel(hops), known))
        frames = self.config.frames_per_token
        heard = known.reshape(1, -1, frames)[..., :1]
        soft = soft * heard + self.weights.tensor(PADDING) * (1 - heard)
        return torch.cat((soft, self.ple), -1)


class StreamStep(AudioMethod):
    """``audio_stream``: the state comes and goes in the order of ``state_shapes``."""

    def forward(self, mel: Tensor, known: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        names = state_shapes(self.config)
        features, after = step(self.encoder(), mel, known, dict(zip(names, state, strict=True)))
        return (self.soft(features), *(after[name] for name in names))


def audio_programs(
    config: AudioConfig, recipe: Recipe, read: Read, ple: Tensor
) -> dict[str, torch.export.ExportedProgram]:
    """Both methods, traced, over one set of weights."""
    specs: Mapping[str, WeightSpec] = audio_weights(config) | soft_weights(config) | {PADDING: padding_weight(config)}
    reader = AudioReader(config, read)
    weights = XnnpackWeights(specs, recipe, checkpoint_parts(reader))
    n, hops = config.frames_per_token, config.max_soft_tokens * config.frames_per_token
    state = tuple(torch.zeros(shape) for shape in state_shapes(config).values())
    inputs: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
        ENCODER: (EncodeClip(config, weights, ple), (torch.zeros(1, hops, HOP + 1),)),
        STREAM: (StreamStep(config, weights), (torch.zeros(1, n, config.mel_bins), torch.zeros(1, n), *state)),
    }
    with torch.no_grad():
        return {k: torch.export.export(m.eval(), args, strict=False) for k, (m, args) in inputs.items()}


@dataclass(frozen=True)
class ExecuTorchAudio:
    """What :func:`write_audio` wrote and measured."""

    path: Path
    delegation: Delegation


def write_audio(config: AudioConfig, recipe: Recipe, read: Read, ple: Tensor, path: Path) -> ExecuTorchAudio:
    """Write both methods as a program of their own, to be loaded with the first sound and released after it."""
    from executorch.exir import ExecutorchBackendConfig

    edge: Any = to_edge(audio_programs(config, recipe, read, ple), metadata(config))
    delegation = measure(edge, {method: partitioned_calls(edge, method) for method in (ENCODER, STREAM)}, 1)
    program = edge.to_executorch(ExecutorchBackendConfig(extract_delegate_segments=True))
    with path.open("wb") as file:
        program.write_to_file(file)
    return ExecuTorchAudio(path, delegation)


def metadata(config: AudioConfig) -> dict[str, Any]:
    """Methods without inputs: what ``g3n_runtime`` must know of the shapes."""
    return {
        "get_audio_soft_tokens": config.max_soft_tokens,
        "get_audio_frames_per_token": config.frames_per_token,
        "get_audio_mel_bins": config.mel_bins,
    }
