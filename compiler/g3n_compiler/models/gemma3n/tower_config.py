"""What ``config.json`` says about the towers: their embedders, their ids, and their numbers of soft tokens.

Source: ``transformers`` ``Gemma3nConfig``, ``Gemma3nVisionConfig``, ``Gemma3nAudioConfig`` and
``Gemma3nMultimodalEmbedder``. A tower whose section is absent or null has all of ``transformers``' defaults there,
which are the published model's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from g3n_compiler.checkpoint.fields import Section
from g3n_compiler.errors import WrongModel
from g3n_compiler.models.gemma3n.config_fields import AUDIO, EMBEDDER, check_fields, reference_fields
from g3n_compiler.models.gemma3n.text_config import (
    MAX_HEADS,
    MAX_LAYERS,
    MAX_VOCABULARY,
    MAX_WIDTH,
    TEXT_ONLY,
    text_section,
)

Tower = Literal["vision", "audio"]
Modality = Literal["text", "vision", "audio"]
TOWERS: tuple[Tower, ...] = ("vision", "audio")
MODALITIES: tuple[Modality, ...] = ("text", *TOWERS)
VISION_ARCHITECTURE = "mobilenetv5_300m_enc"
MAX_SOFT_TOKENS = 4096
"""For an image or a clip; the published model has 256 and 188."""
MAX_FRAMES = 1 << 16
"""Mel frames of the longest clip, 11 minutes; the published model has 3008."""
SUBSAMPLING = 4
"""Mel frames per frame of the audio tower: two convolutions of stride 2."""


@dataclass(frozen=True)
class EmbedderConfig:
    """A tower's embedder into the text model's space, for its soft tokens and its hard token ids."""

    hidden_size: int
    vocab_size: int
    vocab_offset: int
    rms_norm_eps: float

    @property
    def ids(self) -> range:
        """The hard token ids, which are never looked up in the text table."""
        return range(self.vocab_offset, self.vocab_offset + self.vocab_size)


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower as the config describes it; ``model_args`` is timm's keyword arguments as JSON."""

    embedder: EmbedderConfig
    architecture: str
    model_args: str
    stem_bias: bool
    """Whether the checkpoint has a bias on the stem's convolution; timm versions differ."""
    soft_tokens: int
    boi_id: int
    eoi_id: int
    image_id: int


@dataclass(frozen=True)
class AudioConfig:
    """Shape of the audio tower (Universal Speech Model, arXiv 2303.01037) and of its embedder into the text model."""

    embedder: EmbedderConfig
    hidden_size: int
    num_layers: int
    num_heads: int
    past: int
    """Earlier frames that a frame attends to."""
    logit_cap: float
    conv_kernel: int
    """Frames that a layer's light convolution spans."""
    reduction: int
    """Frames per soft token."""
    residual_weight: float
    clipping: float
    conv_channels: tuple[int, int]
    """Channels of the two subsampling convolutions."""
    group_norm_eps: float
    rms_norm_eps: float
    mel_bins: int
    text_hidden_size: int
    max_soft_tokens: int
    """Soft tokens of the longest clip; the reference pads every clip to that many."""
    padding_id: int
    """The token whose embedding pads a clip: the vocabulary's last."""
    begin_id: int
    soft_id: int
    end_id: int

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def frames_per_token(self) -> int:
        """Mel frames of 10 ms per soft token."""
        return SUBSAMPLING * self.reduction

    @property
    def bins(self) -> tuple[int, int, int]:
        """Frequency bins at the first convolution's input, at its output, and at the second's output."""
        first = (self.mel_bins + 1) // 2
        return self.mel_bins, first, (first + 1) // 2

    def soft_tokens(self, frames: int) -> int:
        """The number of soft tokens for ``frames`` mel frames."""
        return -(-frames // self.frames_per_token)


Tokens = Callable[[], Mapping[str, int]]
"""The ids of the tokens that the tokenizer names for media, such as ``boi_token``, which a config can leave open."""


def load_vision_config(raw: Mapping[str, Any], stem_bias: bool, tokens: Tokens = dict) -> VisionConfig:
    """The vision tower's configuration from the whole ``config.json``.

    Raises:
        WrongModel: it does not describe a Gemma 3n vision tower.
    """
    whole, vision = Section(raw, "config.json"), _tower(raw, "vision_config")
    vision.section("model_args")  # an object or null; its content is read where timm is called
    config = VisionConfig(
        embedder=_embedder(vision, 2048, 262_144),
        architecture=vision.choice("architecture", VISION_ARCHITECTURE, (VISION_ARCHITECTURE,)),
        model_args=json.dumps(vision.raw("model_args") or {}, sort_keys=True),
        stem_bias=stem_bias,
        soft_tokens=whole.integer("vision_soft_tokens_per_image", 256, 1, MAX_SOFT_TOKENS),
        boi_id=_mark(whole, "boi_token_id", 255_999, tokens),
        eoi_id=_mark(whole, "eoi_token_id", 262_144, tokens),
        image_id=_id(whole, "image_token_id", 262_145),
    )
    if outside := [i for i in (config.eoi_id, config.image_id) if i not in config.embedder.ids]:
        raise WrongModel(
            f"config.json's id {outside[0]} belongs to images (eoi_token_id or image_token_id), but embed_vision "
            f"({vision.where}) holds only {config.embedder.ids}"
        )
    _check_ids(raw, vision, config.embedder, config.boi_id)
    return config


def load_audio_config(raw: Mapping[str, Any], tokens: Tokens = dict) -> AudioConfig:
    """The audio tower's configuration from the whole ``config.json``.

    Raises:
        WrongModel: it describes no audio tower, or one whose shape the reference does not define or that cannot be
            streamed.
    """
    whole, audio, text = Section(raw, "config.json"), _tower(raw, "audio_config"), text_section(raw)
    for name, expected in (("sscp_conv_kernel_size", [[3, 3]] * 2), ("sscp_conv_stride_size", [[2, 2]] * 2)):
        if name in audio and audio.raw(name) != expected:
            raise audio.wrong(name, f"{expected}")
    audio.integer("conf_attention_context_right", 0, 0, 0)  # Gemma 3n's audio tower does not attend to later frames
    audio.integer("conf_attention_chunk_size", 12, 1, 4096)
    hidden = audio.integer("hidden_size", 1536, 1, MAX_WIDTH)
    heads = audio.integer("conf_num_attention_heads", 8, 1, MAX_HEADS)
    if hidden % heads:
        raise WrongModel(f"the audio tower's hidden_size {hidden} is not a multiple of its {heads} heads")
    channels = audio.integers("sscp_conv_channel_size", (128, 32), 2, 1, 4096)
    config = AudioConfig(
        embedder=_embedder(audio, 1536, 262_272),
        hidden_size=hidden,
        num_layers=audio.integer("conf_num_hidden_layers", 12, 1, MAX_LAYERS),
        num_heads=heads,
        past=audio.integer("conf_attention_context_left", 13, 2, 4096) - 1,
        logit_cap=audio.number("conf_attention_logit_cap", 50.0, 1e-6, 1e9),
        conv_kernel=audio.integer("conf_conv_kernel_size", 5, 1, 255),
        # below 2, a token is shorter than the sound that it depends on
        reduction=audio.integer("conf_reduction_factor", 4, 2, 64),
        residual_weight=audio.number("conf_residual_weight", 0.5, -1e3, 1e3),
        clipping=audio.number("gradient_clipping", 1e10, 1e-6, 1e38),
        conv_channels=(channels[0], channels[1]),
        group_norm_eps=audio.number("sscp_conv_group_norm_eps", 1e-3, 0.0, 1.0),
        rms_norm_eps=audio.number("rms_norm_eps", 1e-6, 0.0, 1.0),
        mel_bins=audio.integer("input_feat_size", 128, 1, 1024),
        text_hidden_size=text.integer("hidden_size", 2048, 1, MAX_WIDTH),
        max_soft_tokens=whole.integer("audio_soft_tokens_per_image", 188, 1, MAX_SOFT_TOKENS),
        padding_id=text.integer("vocab_size", 262_400, 2, MAX_VOCABULARY) - 1,
        begin_id=_mark(whole, "boa_token_id", 256_000, tokens),
        soft_id=_id(whole, "audio_token_id", 262_273),
        end_id=_mark(whole, "eoa_token_id", 262_272, tokens),
    )
    if config.max_soft_tokens * config.frames_per_token > MAX_FRAMES:
        raise WrongModel(
            f"a clip of {config.max_soft_tokens} soft tokens of {config.frames_per_token} frames each is longer than "
            f"{MAX_FRAMES} frames"
        )
    if outside := [i for i in (config.end_id, config.padding_id) if i not in config.embedder.ids]:
        raise WrongModel(
            f"the audio tower does not fit: config.json's id {outside[0]} belongs to sounds (eoa_token_id, or the "
            f"vocabulary's last, which pads clips), but embed_audio ({audio.where}) holds only {config.embedder.ids}"
        )
    _check_ids(raw, audio, config.embedder, config.begin_id)
    return config


def audio_reference(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``Gemma3nAudioConfig``: the file's own fields."""
    numbers = (
        "rms_norm_eps", "gradient_clipping", "conf_attention_logit_cap", "conf_residual_weight",
        "sscp_conv_group_norm_eps",
    )  # fmt: skip
    return reference_fields(_tower(raw, "audio_config"), (*EMBEDDER, *AUDIO), numbers)


def _tower(raw: Mapping[str, Any], name: str) -> Section:
    whole = Section(raw, "config.json")
    if whole.raw("model_type") == TEXT_ONLY:
        raise WrongModel(
            f"{whole.where} has model_type '{TEXT_ONLY}', which has no {name.removesuffix('_config')} tower and no "
            f"{name}, but the checkpoint holds tensors of one: take the config.json of the model with towers, or "
            "remove those tensors"
        )
    section = whole.part(name)
    check_fields(section, "tower")
    return section


def _id(section: Section, name: str, default: int) -> int:
    return section.integer(name, default, 0, MAX_VOCABULARY - 1)


def _mark(section: Section, name: str, default: int, tokens: Tokens) -> int:
    """The id of a token that begins or ends media. The model never asks for it, and a prompt takes the tokenizer's, so
    that is what a config without it means.
    """
    return _id(section, name, default) if name in section else tokens().get(name.removesuffix("_id"), default)


def _embedder(tower: Section, hidden_size: int, vocab_offset: int) -> EmbedderConfig:
    """The embedder in one tower's section of the config; its defaults are the published model's."""
    return EmbedderConfig(
        tower.integer("hidden_size", hidden_size, 1, MAX_WIDTH),
        tower.integer("vocab_size", 128, 1, MAX_VOCABULARY),
        tower.integer("vocab_offset", vocab_offset, 0, MAX_VOCABULARY),
        tower.number("rms_norm_eps", 1e-6, 0.0, 1.0),
    )


def _check_ids(raw: Mapping[str, Any], tower: Section, embedder: EmbedderConfig, begin: int) -> None:
    """Check that a tower's ids are rows of the text model's table."""
    vocab = text_section(raw).integer("vocab_size", 262_400, 2, MAX_VOCABULARY)
    if (last := max(embedder.ids[-1], begin)) >= vocab:
        raise WrongModel(
            f"{tower.where} has the id {last} (by vocab_offset and vocab_size, or the token that begins), but the text "
            f"model's vocab_size is {vocab}: both must be of one model"
        )
