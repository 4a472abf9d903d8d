"""What ``config.json`` says about the towers: their embedders, their ids, and how many soft tokens they make.

Source: ``transformers`` ``Gemma3nConfig``, ``Gemma3nVisionConfig`` and ``Gemma3nMultimodalEmbedder``.
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


def _embedder(tower: Mapping[str, Any], hidden_size: int, vocab_offset: int) -> EmbedderConfig:
    """The embedder of one tower's section of the config; its defaults are the published model's."""
    return EmbedderConfig(
        int(tower.get("hidden_size", hidden_size)),
        int(tower.get("vocab_size", 128)),
        int(tower.get("vocab_offset", vocab_offset)),
        float(tower.get("rms_norm_eps", 1e-6)),
    )
