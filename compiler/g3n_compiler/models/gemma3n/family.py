"""Gemma 3n for the compiler's stages: see :class:`g3n_compiler.models.family.Family`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from g3n_compiler.checkpoint.tensor_names import Naming
from g3n_compiler.models.commuting import Channels, Turn
from g3n_compiler.models.family import Cut
from g3n_compiler.models.gemma3n.audio_weights import audio_tensors
from g3n_compiler.models.gemma3n.commuting import channels, turns
from g3n_compiler.models.gemma3n.decoder import TextDecoder
from g3n_compiler.models.gemma3n.media_tokens import media_tokens
from g3n_compiler.models.gemma3n.published import published
from g3n_compiler.models.gemma3n.saved_names import naming
from g3n_compiler.models.gemma3n.soft_tokens import HardTokenRows
from g3n_compiler.models.gemma3n.sound_processor import check_sound_processor
from g3n_compiler.models.gemma3n.text_config import (
    MODEL_TYPES,
    TextConfig,
    gemma3n_config,
    parse_text_config,
    sliced_config,
)
from g3n_compiler.models.gemma3n.text_weights import core_parameters, dead_weights, text_weights
from g3n_compiler.models.gemma3n.tower_commuting import audio_channels, vision_channels
from g3n_compiler.models.gemma3n.tower_config import (
    TOWERS,
    AudioConfig,
    EmbedderConfig,
    Tower,
    VisionConfig,
    load_audio_config,
    load_vision_config,
)
from g3n_compiler.models.gemma3n.vision_weights import vision_weights
from g3n_compiler.models.published import PublishedModels
from g3n_compiler.models.shape import TextShape
from g3n_compiler.models.weights import Weights, WeightSpec
from g3n_compiler.source import LAYER, Source

STEM_BIAS = "vision_tower.timm_model.conv_stem.conv.bias"
FFN_ROWS = ("mlp.gate_proj.weight", "mlp.up_proj.weight")
FFN_COLUMNS = "mlp.down_proj.weight"


class Vision:
    """MobileNet-V5 and its embedder."""

    tensors = ("vision_tower.", "embed_vision.")

    def weights(self, source: Source) -> Mapping[str, WeightSpec]:
        assert source.vision is not None
        return vision_weights(source.vision, source.whole.hidden_size)

    def channels(self, source: Source) -> Sequence[Channels]:
        assert source.vision is not None
        return vision_channels(source.vision)


class Audio:
    """The Universal Speech Model's conformer and its embedder."""

    tensors = ("audio_tower.", "embed_audio.")

    def weights(self, source: Source) -> Mapping[str, WeightSpec]:
        assert source.audio is not None
        return audio_tensors(source.audio)

    def channels(self, source: Source) -> Sequence[Channels]:
        assert source.audio is not None
        return audio_channels(source.audio)


class Gemma3n:
    """The family of E2B, E4B and their slices."""

    title = "Gemma 3n"
    model_types = MODEL_TYPES

    @property
    def towers(self) -> Mapping[str, Vision | Audio]:
        return {"vision": Vision(), "audio": Audio()}

    @property
    def published(self) -> PublishedModels:
        return published()

    def naming(self, config: Mapping[str, Any]) -> Naming:
        return naming(config)

    def text_shape(self, config: Mapping[str, Any], generation: Mapping[str, Any] | None) -> TextConfig:
        return parse_text_config(config, generation)

    def sliced_config(self, config: Mapping[str, Any], shape: TextShape) -> dict[str, Any]:
        return sliced_config(config, gemma3n_config(shape))

    def text_weights(self, shape: TextShape) -> dict[str, WeightSpec]:
        return text_weights(gemma3n_config(shape))

    def dead_weights(self, shape: TextShape) -> dict[str, str]:
        return dead_weights(gemma3n_config(shape))

    def core_parameters(self, shape: TextShape) -> int:
        return core_parameters(gemma3n_config(shape))

    def cut(self, shape: TextShape, kept: Sequence[int], tensor: str) -> Cut:
        """Gate and up projections lose their last rows and the down projection its last columns. The per-layer table
        keeps the columns, and its model projection the rows, of the layers that remain.
        """
        ranges = tuple((i * shape.ple_dim, (i + 1) * shape.ple_dim) for i in kept)
        if tensor == "per_layer_model_projection.weight":
            return Cut(rows=ranges)
        if tensor == "embed_tokens_per_layer.weight":
            return Cut(columns=ranges)
        match = LAYER.fullmatch(tensor)
        if match is None:
            return Cut()
        width = ((0, shape.ffn_dims[int(match[1])]),)
        if match[2] in FFN_ROWS:
            return Cut(rows=width)
        return Cut(columns=width) if match[2] == FFN_COLUMNS else Cut()

    def channels(self, shape: TextShape) -> Sequence[Channels]:
        return channels(gemma3n_config(shape))

    def turns(self, shape: TextShape) -> Sequence[Turn]:
        return turns(gemma3n_config(shape))

    def vision(self, source: Source) -> VisionConfig | None:
        stem_bias = source.tower_prefix + STEM_BIAS in source.checkpoint.entries
        return load_vision_config(source.checkpoint.config, stem_bias, lambda: media_tokens(source.directory))

    def audio(self, source: Source) -> AudioConfig | None:
        config = load_audio_config(source.checkpoint.config, lambda: media_tokens(source.directory))
        check_sound_processor(source.directory, config.mel_bins)
        return config

    def hard_token_rows(self, source: Source) -> HardTokenRows | None:
        embedders: dict[Tower, EmbedderConfig] = {}
        for tower in TOWERS:
            # of a tower that is not compiled, not even the config is looked at
            config = getattr(source, tower) if tower in source.modalities else None
            if config is not None:
                embedders[tower] = config.embedder
        return HardTokenRows(embedders, source.read, source.whole.hidden_size) if embedders else None

    def decoder(self, shape: TextShape, weights: Weights) -> TextDecoder:
        return TextDecoder(gemma3n_config(shape), weights)

    def load_transformers(self, source: Source) -> Any:
        from g3n_compiler.models.gemma3n.transformers_model import load_hf

        return load_hf(source)
