"""The audio tower as a program of its own: a whole clip and a streaming step, over one copy of the weights.

================= =================================================== ==================================================
``audio_encoder`` ``sound [1, T, 160]``, ``known [1, T]``              soft tokens of a clip ``[1, N, text_hidden]``
``audio_stream``  ``mel [1, 16, 128]``, ``known [1, 16]``, state       ``soft_token [1, 1, text_hidden]`` and the state
``audio_layers``  as ``audio_encoder``                                 frames before the layers and after each, then the
                                                                       soft tokens
``audio_steps``   as ``audio_stream``                                  the output of each layer, then the rest
``end_of_audio``                                                       the end-of-audio row ``[1, text_hidden]``
================= =================================================== ==================================================

``known`` is 1 for hops (or mel frames) that belong to the sound and 0 past its end. Every layer is a delegate.
``audio_layers`` and ``audio_steps`` call the same delegates as the first two methods and serve verification.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from g3n_compiler.lower.artifact import Delegation
from g3n_compiler.lower.executorch.delegates.tower import (
    TowerMethod,
    TowerOps,
    TowerPiece,
    TowerTemplates,
    write_program,
)
from g3n_compiler.lower.executorch.delegates.weight_store import store_weights
from g3n_compiler.lower.executorch.weights import XnnpackWeights, checkpoint_parts
from g3n_compiler.lower.signatures.audio import soft_weights
from g3n_compiler.models.gemma3n.audio import AudioEncoder, AudioOps, Clip, every
from g3n_compiler.models.gemma3n.audio_mel import LOST, LogMelGraph
from g3n_compiler.models.gemma3n.audio_stream import (
    FRONT_STATE,
    Stream,
    by_token,
    layer_state,
    state_shapes,
    subsample_step,
)
from g3n_compiler.models.gemma3n.audio_weights import (
    EMBEDDER,
    PADDING,
    TOWER,
    AudioReader,
    audio_weights,
    padding_weight,
)
from g3n_compiler.models.gemma3n.soft_tokens import Embedder
from g3n_compiler.models.gemma3n.tower_config import AudioConfig
from g3n_compiler.models.weights import Read, WeightSpec
from g3n_compiler.quantize.recipe import Recipe
from g3n_runtime.executorch.audio import BINS, CLIP, END, FRAMES, IDS, LAYERS, STEPS, STREAM, TOKENS
from g3n_runtime.media.mel import HOP

FRONT = TOWER + "subsample_conv_projection."
Shapes = tuple[tuple[int, ...], ...]


class XnnpackAudioOps(TowerOps, AudioOps):
    """Filters in the layout that XNNPACK wants; a filter in time is a convolution over a map of height 1."""

    def subsample(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x.permute(0, 3, 1, 2), weight, stride=2, padding=(0, 1)).permute(0, 2, 3, 1)

    def depthwise(self, x: Tensor, weight: Tensor) -> Tensor:
        width = x.shape[-1]
        y = F.conv2d(x.view(1, 1, -1, width).permute(0, 3, 1, 2), weight, groups=width)
        return y.permute(0, 2, 3, 1).reshape(1, -1, width)


class _AudioPiece(nn.Module):
    def __init__(self, config: AudioConfig, weights: XnnpackWeights) -> None:
        super().__init__()
        frames = (config.bins[i + 1] * config.conv_channels[i] for i in range(2))
        ops = XnnpackAudioOps((config.hidden_size, config.text_hidden_size, *frames))
        self.config, self.weights, self.ops = config, weights, ops

    @property
    def encoder(self) -> AudioEncoder:
        return AudioEncoder(self.config, self.weights, self.ops)


class _ClipFront(_AudioPiece):
    """``sound, known`` -> ``frames, hide, keep, kept``: ``hide`` is the attention mask, ``kept [1, N, 1]`` is for soft
    tokens.
    """

    def __init__(self, config: AudioConfig, weights: XnnpackWeights) -> None:
        super().__init__(config, weights)
        self.mel = LogMelGraph(config.mel_bins)

    def forward(self, sound: Tensor, known: Tensor) -> tuple[Tensor, ...]:
        mask = F.pad(known[:, LOST:], (0, LOST))
        half = every(mask, 2)
        quarter = every(half, 2)
        x = self.encoder.subsample(self.mel(sound) * mask.unsqueeze(-1), half, quarter, Clip())
        keep = quarter.unsqueeze(-1)
        kept = every(keep, self.config.reduction)
        return x, self.encoder.attention_mask(quarter, Clip()), keep, kept


class _ClipLayer(_AudioPiece):
    """``x, hide, keep`` -> ``x``, for layer ``layer`` of the config."""

    def __init__(self, config: AudioConfig, weights: XnnpackWeights, layer: int) -> None:
        super().__init__(config, weights)
        self._layer = layer

    def forward(self, x: Tensor, hide: Tensor, keep: Tensor) -> tuple[Tensor, ...]:
        last = self._layer == self.config.num_layers - 1
        return (self.encoder.layer(self._layer, x, hide, keep, Clip(), (self.config.reduction, 0) if last else (1, 0)),)


class _ClipEnd(_AudioPiece):
    """``x, kept`` -> soft tokens; the padding's embedding where ``kept`` is 0."""

    def forward(self, x: Tensor, kept: Tensor) -> tuple[Tensor, ...]:
        soft = Embedder(self.config.embedder, "audio", self.weights, self.ops).soft(x * kept)
        return (soft * kept + self.weights.tensor(PADDING) * (1 - kept),)


class _StepFront(_AudioPiece):
    """``mel, known, *state`` -> ``frames, hide, keep, kept, *state``."""

    def forward(self, mel: Tensor, known: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        names = FRONT_STATE
        stream = Stream(dict(zip(names, state, strict=True)))
        x, valid = subsample_step(self.encoder, mel, known, stream)
        hide, keep = self.encoder.attention_mask(valid, stream), valid.unsqueeze(-1)
        kept = every(keep, self.config.reduction, self.config.reduction - 1)
        return x, hide, keep, kept, *(stream.after[name] for name in names)


class _StepLayer(_AudioPiece):
    """``x, hide, keep, k, v, light_conv`` -> ``x, k, v, light_conv``."""

    def __init__(self, config: AudioConfig, weights: XnnpackWeights, layer: int) -> None:
        super().__init__(config, weights)
        self._layer = layer

    def forward(self, x: Tensor, hide: Tensor, keep: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        c, names = self.config, layer_state(self._layer)
        stream = Stream(dict(zip(names, state, strict=True)))
        last = self._layer == c.num_layers - 1
        x = self.encoder.layer(self._layer, x, hide, keep, stream, (c.reduction, c.reduction - 1) if last else (1, 0))
        return x, *(stream.after[name] for name in names)


class _StepEnd(_AudioPiece):
    """``x, kept`` -> soft token."""

    def forward(self, x: Tensor, kept: Tensor) -> tuple[Tensor, ...]:
        return (Embedder(self.config.embedder, "audio", self.weights, self.ops).soft(x * kept),)


class EncodeClip(nn.Module):
    """``audio_encoder``, or with ``probe`` ``audio_layers``."""

    def __init__(self, delegates: Sequence[nn.Module], probe: bool) -> None:
        super().__init__()
        self.delegates, self.probe = nn.ModuleList(delegates), probe

    def forward(self, sound: Tensor, known: Tensor) -> tuple[Tensor, ...]:
        front, *layers, end = self.delegates
        x, hide, keep, kept = front(sound, known)
        given = [x]
        for layer in layers:
            x = layer(x, hide, keep)[0]
            given.append(x)
        soft = end(x, kept)[0]
        return (*given, soft) if self.probe else (soft,)


class EncodeStep(nn.Module):
    """``audio_stream``, or with ``probe`` ``audio_steps``; the state is in the order of ``state_shapes``."""

    def __init__(self, config: AudioConfig, delegates: Sequence[nn.Module], probe: bool) -> None:
        super().__init__()
        self.config, self.delegates, self.probe = config, nn.ModuleList(delegates), probe

    def forward(self, mel: Tensor, known: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        front, *layers, end = self.delegates
        names = FRONT_STATE
        before = dict(zip(state_shapes(self.config, by_token(self.config)), state, strict=True))
        x, hide, keep, kept, *left = front(mel, known, *(before[name] for name in names))
        after: dict[str, Tensor] = dict(zip(names, left, strict=True))
        given = [x]
        for i, layer in enumerate(layers):
            own = layer_state(i)
            x, *left = layer(x, hide, keep, *(before[name] for name in own))
            after |= dict(zip(own, left, strict=True))
            given.append(x)
        soft = end(x, kept)[0]
        out = (soft, *(after[name] for name in state_shapes(self.config, by_token(self.config))))
        return (*given, *out) if self.probe else out


def clip_pieces(config: AudioConfig) -> list[TowerPiece]:
    """Front end, layers and embedder for a whole clip."""
    c = config
    hops = c.max_soft_tokens * c.frames_per_token
    frames, length = hops // 4, min(c.past, hops // 4)
    x, keep = (1, frames, c.hidden_size), (1, frames, 1)
    hide = (1, -(-frames // length), length, length + c.past)
    kept: Shapes = ((1, c.max_soft_tokens, c.hidden_size), (1, c.max_soft_tokens, 1))
    return [
        _front(c, "clip", _ClipFront, ((1, hops, HOP), (1, hops))),
        *(_layer(c, "clip", _ClipLayer, i, (x, hide, keep)) for i in range(c.num_layers)),
        _end(c, "clip", _ClipEnd, kept),
    ]


def step_pieces(config: AudioConfig) -> list[TowerPiece]:
    """The same for a streaming step."""
    c, shapes = config, state_shapes(config, by_token(config))
    n = c.frames_per_token
    frames, length = n // 4, min(c.past, n // 4)
    x, keep = (1, frames, c.hidden_size), (1, frames, 1)
    hide = (1, -(-frames // length), length, length + c.past)
    front: Shapes = ((1, n, c.mel_bins), (1, n), *(shapes[name] for name in FRONT_STATE))
    states = [tuple(shapes[name] for name in layer_state(i)) for i in range(c.num_layers)]
    return [
        _front(c, "step", _StepFront, front),
        *(_layer(c, "step", _StepLayer, i, (x, hide, keep, *states[i])) for i in range(c.num_layers)),
        _end(c, "step", _StepEnd, ((1, 1, c.hidden_size), (1, 1, 1))),
    ]


def _front(config: AudioConfig, form: str, module: Callable[..., nn.Module], inputs: Shapes) -> TowerPiece:
    specs = {name: spec for name, spec in audio_weights(config).items() if name.startswith(FRONT)}
    return TowerPiece(f"{form} front end", FRONT, specs, lambda w: module(config, w), inputs)


def _layer(config: AudioConfig, form: str, module: Callable[..., nn.Module], i: int, inputs: Shapes) -> TowerPiece:
    prefix = f"{TOWER}conformer.{i}."
    specs = {name: spec for name, spec in audio_weights(config).items() if name.startswith(prefix)}
    kind = f"{form} layer" + (", the last" if i == config.num_layers - 1 else "")
    return TowerPiece(kind, prefix, specs, lambda w: module(config, w, i), inputs)


def _end(config: AudioConfig, form: str, module: Callable[..., nn.Module], inputs: Shapes) -> TowerPiece:
    specs = soft_weights(config)
    if form == "clip":
        specs |= {PADDING: padding_weight(config)}
    return TowerPiece(f"{form} embedder", EMBEDDER, specs, lambda w: module(config, w), inputs)


def audio_specs(config: AudioConfig) -> dict[str, WeightSpec]:
    """Weights of the encoder and of what stands in the places of its padding."""
    return audio_weights(config) | soft_weights(config) | {PADDING: padding_weight(config)}


def clip_encoder(config: AudioConfig, templates: TowerTemplates) -> EncodeClip:
    """The tower over delegates, for a whole clip."""
    return EncodeClip([templates(piece) for piece in clip_pieces(config)], probe=False)


def write_audio(config: AudioConfig, recipe: Recipe, read: Read, path: Path) -> Delegation:
    """Write the program; the same arguments give the same bytes.

    Raises:
        NotFinite: a weight holds a NaN or an infinity.
    """
    reader = AudioReader(config, read)
    specs = audio_specs(config)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".audio-") as folder:
        stored = store_weights(specs, recipe, checkpoint_parts(reader), Path(folder), {})
        templates = TowerTemplates(recipe, stored)
        clip, step = clip_pieces(config), step_pieces(config)
        clips, steps = ([templates(piece) for piece in pieces] for pieces in (clip, step))
        inputs = step[0].inputs[:2] + tuple(state_shapes(config, by_token(config)).values())
        methods = {
            CLIP: TowerMethod(EncodeClip(clips, probe=False), clip[0].inputs, clip),
            STREAM: TowerMethod(EncodeStep(config, steps, probe=False), inputs, step),
            LAYERS: TowerMethod(EncodeClip(clips, probe=True), clip[0].inputs, clip, measured=False),
            STEPS: TowerMethod(EncodeStep(config, steps, probe=True), inputs, step, measured=False),
        }
        constants = {
            TOKENS: config.max_soft_tokens,
            FRAMES: config.frames_per_token,
            BINS: config.mel_bins,
            IDS: [config.begin_id, config.soft_id, config.end_id],
            END: reader.hard_token_row(config.end_id).view(1, -1).contiguous(),
        }
        return write_program(methods, templates, stored, constants, path)
