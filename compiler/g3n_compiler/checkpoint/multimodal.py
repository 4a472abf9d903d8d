"""What ``config.json`` says about the towers: their embedders, their ids, and how many soft tokens they make.

Source: ``transformers`` ``Gemma3nConfig``, ``Gemma3nVisionConfig``, ``Gemma3nAudioConfig`` and
``Gemma3nMultimodalEmbedder``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from g3n_compiler.errors import WrongModel

Tower = Literal["vision", "audio"]
Modality = Literal["text", "vision", "audio"]
TOWERS: tuple[Tower, ...] = ("vision", "audio")
MODALITIES: tuple[Modality, ...] = ("text", *TOWERS)
VISION_ARCHITECTURE = "mobilenetv5_300m_enc"
SUBSAMPLING = 4
"""Mel frames for each frame of the audio tower: two convolutions of stride 2."""


@dataclass(frozen=True)
class EmbedderConfig:
    """A tower's way into the text space, for its soft tokens and for the hard ids that it owns."""

    hidden_size: int
    vocab_size: int
    vocab_offset: int
    rms_norm_eps: float

    @property
    def ids(self) -> range:
        """The hard ids, which never go through the text table."""
        return range(self.vocab_offset, self.vocab_offset + self.vocab_size)


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower as the config describes it; ``model_args`` is the JSON of timm's keyword arguments."""

    embedder: EmbedderConfig
    architecture: str
    model_args: str
    stem_bias: bool
    """Whether the checkpoint has a bias on the stem's convolution: timm versions differ."""
    soft_tokens: int
    boi_id: int
    eoi_id: int
    image_id: int


@dataclass(frozen=True)
class AudioConfig:
    """Shape of the audio tower (Universal Speech Model, arXiv 2303.01037) and of its way into the text model."""

    embedder: EmbedderConfig
    hidden_size: int
    num_layers: int
    num_heads: int
    past: int
    """Frames before its own that a frame attends to."""
    logit_cap: float
    conv_kernel: int
    """Frames that the light convolution of a layer spans."""
    reduction: int
    """Frames for each soft token."""
    residual_weight: float
    clipping: float
    conv_channels: tuple[int, int]
    """Channels of the two subsampling convolutions."""
    group_norm_eps: float
    rms_norm_eps: float
    mel_bins: int
    text_hidden_size: int
    max_soft_tokens: int
    """Soft tokens of the longest clip; the reference pads every clip to as many."""
    padding_id: int
    """The token whose embedding pads a clip, the vocabulary's last."""
    begin_id: int
    soft_id: int
    end_id: int

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def frames_per_token(self) -> int:
        """Mel frames of 10 ms for each soft token."""
        return SUBSAMPLING * self.reduction

    @property
    def bins(self) -> tuple[int, int, int]:
        """Frequencies that enter the first convolution, leave it, and leave the second."""
        first = (self.mel_bins + 1) // 2
        return self.mel_bins, first, (first + 1) // 2

    def soft_tokens(self, frames: int) -> int:
        """Soft tokens that ``frames`` mel frames become."""
        return -(-frames // self.frames_per_token)


def load_vision_config(raw: Mapping[str, Any], stem_bias: bool) -> VisionConfig:
    """From the whole ``config.json``.

    Raises:
        WrongModel: it does not describe a Gemma 3n vision tower.
    """
    try:
        vision = raw["vision_config"]
        config = VisionConfig(
            embedder=_embedder(vision, 2048, 262_144),
            architecture=str(vision.get("architecture", VISION_ARCHITECTURE)),
            model_args=json.dumps(vision.get("model_args") or {}, sort_keys=True),
            stem_bias=stem_bias,
            soft_tokens=int(raw.get("vision_soft_tokens_per_image", 256)),
            boi_id=int(raw.get("boi_token_id", 255_999)),
            eoi_id=int(raw.get("eoi_token_id", 262_144)),
            image_id=int(raw.get("image_token_id", 262_145)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise WrongModel(f"config.json does not describe a Gemma 3n vision tower: {error!r}") from None
    if config.architecture != VISION_ARCHITECTURE:
        raise WrongModel(f"the vision tower is {config.architecture!r}, expected {VISION_ARCHITECTURE}")
    if outside := [i for i in (config.eoi_id, config.image_id) if i not in config.embedder.ids]:
        raise WrongModel(f"id {outside[0]} is an image's, but embed_vision holds {config.embedder.ids} only")
    return config


def load_audio_config(raw: Mapping[str, Any]) -> AudioConfig:
    """From the whole ``config.json``.

    Raises:
        WrongModel: it describes no audio tower, or one of a shape that the reference does not define or that cannot be
            streamed.
    """
    try:
        return _parse_audio(raw)
    except (KeyError, TypeError, ValueError) as error:
        raise WrongModel(f"config.json does not describe a Gemma 3n audio tower: {error!r}") from None


def _parse_audio(raw: Mapping[str, Any]) -> AudioConfig:
    audio, text = raw["audio_config"], raw["text_config"]
    for name, expected in (("sscp_conv_kernel_size", [[3, 3]] * 2), ("sscp_conv_stride_size", [[2, 2]] * 2)):
        found = [list(pair) for pair in audio.get(name, expected)]
        if found != expected:
            raise ValueError(f"{name} {found}, expected {expected}")
    if right := audio.get("conf_attention_context_right", 0):
        raise ValueError(f"conf_attention_context_right {right}: a tower that hears the future is not Gemma 3n's")
    hidden, heads = int(audio.get("hidden_size", 1536)), int(audio.get("conf_num_attention_heads", 8))
    left, channels = int(audio.get("conf_attention_context_left", 13)), audio.get("sscp_conv_channel_size", (128, 32))
    if hidden % heads or left < 2 or len(channels) != 2:
        raise ValueError(f"hidden_size {hidden}, {heads} heads, context {left}, channels {channels}")
    config = AudioConfig(
        embedder=_embedder(audio, 1536, 262_272),
        hidden_size=hidden,
        num_layers=int(audio.get("conf_num_hidden_layers", 12)),
        num_heads=heads,
        past=left - 1,
        logit_cap=float(audio.get("conf_attention_logit_cap", 50.0)),
        conv_kernel=int(audio.get("conf_conv_kernel_size", 5)),
        reduction=int(audio.get("conf_reduction_factor", 4)),
        residual_weight=float(audio.get("conf_residual_weight", 0.5)),
        clipping=float(audio.get("gradient_clipping", 1e10)),
        conv_channels=(int(channels[0]), int(channels[1])),
        group_norm_eps=float(audio.get("sscp_conv_group_norm_eps", 1e-3)),
        rms_norm_eps=float(audio.get("rms_norm_eps", 1e-6)),
        mel_bins=int(audio.get("input_feat_size", 128)),
        text_hidden_size=int(text["hidden_size"]),
        max_soft_tokens=int(raw.get("audio_soft_tokens_per_image", 188)),
        padding_id=int(text["vocab_size"]) - 1,
        begin_id=int(raw.get("boa_token_id", 256000)),
        soft_id=int(raw.get("audio_token_id", 262273)),
        end_id=int(raw.get("eoa_token_id", 262272)),
    )
    if config.reduction < 2:
        raise ValueError(f"conf_reduction_factor {config.reduction}: below 2 a token is shorter than what it hears")
    if outside := [i for i in (config.end_id, config.padding_id) if i not in config.embedder.ids]:
        raise ValueError(f"id {outside[0]} is a sound's, but embed_audio holds {config.embedder.ids} only")
    return config


def _embedder(tower: Mapping[str, Any], hidden_size: int, vocab_offset: int) -> EmbedderConfig:
    """The embedder of one tower's section of the config; its defaults are the published model's."""
    return EmbedderConfig(
        int(tower.get("hidden_size", hidden_size)),
        int(tower.get("vocab_size", 128)),
        int(tower.get("vocab_offset", vocab_offset)),
        float(tower.get("rms_norm_eps", 1e-6)),
    )
