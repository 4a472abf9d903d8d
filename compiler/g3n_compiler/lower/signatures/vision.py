"""The vision tower's entry points: ``encode`` at a resolution, and ``adapt`` into the text model's space with the end
row.

The contract is LiteRT-LM's; onnxruntime runs the same modules.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from g3n_compiler.lower.signatures.text import GraphWeights, streams_name
from g3n_compiler.models.dialect import Dialect
from g3n_compiler.models.gemma3n.soft_tokens import Embedder, embed_hard_tokens, embedder_weights
from g3n_compiler.models.gemma3n.tower_config import VisionConfig
from g3n_compiler.models.gemma3n.vision import VisionEncoder
from g3n_compiler.models.gemma3n.vision_layout import VisionLayout
from g3n_compiler.models.gemma3n.vision_weights import encoder_weights
from g3n_compiler.models.weights import Read, Weights, WeightSpec
from g3n_compiler.source import Source

END = "embed_vision.end_of_image"


class EncodeImage(nn.Module):
    """``images [1, S, S, 3]`` float in 0..1 -> ``features [1, tokens, width]``.

    Args:
        layer_outputs: also return the maps between the blocks, under :func:`.text.streams_name`.
    """

    def __init__(self, layout: VisionLayout, dialect: Dialect | None = None, layer_outputs: bool = False) -> None:
        super().__init__()
        self.layout, self.dialect, self.layer_outputs = layout, dialect, layer_outputs
        self.specs = encoder_weights(layout)

    def forward(self, images: Tensor, **weights: Tensor) -> dict[str, Tensor]:
        encoder = VisionEncoder(self.layout, GraphWeights(weights, self.specs), self.dialect)
        *maps, features = encoder.block_outputs(images)
        between = {streams_name(i): x for i, x in enumerate(maps)} if self.layer_outputs else {}
        return {"features": features, **between}


class AdaptImage(nn.Module):
    """``features [1, tokens, width]`` -> ``mm_embedding [1, tokens + 1, hidden]``; the last row is the end of image."""

    def __init__(self, config: VisionConfig, hidden_size: int, dialect: Dialect | None = None) -> None:
        super().__init__()
        self.config, self.dialect = config, dialect
        self.specs = adapter_weights(config, hidden_size)

    def forward(self, features: Tensor, **weights: Tensor) -> dict[str, Tensor]:
        return {"mm_embedding": adapt(self.config, GraphWeights(weights, self.specs), features, self.dialect)}


def adapt(config: VisionConfig, weights: Weights, features: Tensor, dialect: Dialect | None = None) -> Tensor:
    """Soft tokens in the text model's space, and the end row ``[1, tokens + 1, hidden]``."""
    soft = Embedder(config.embedder, "vision", weights, dialect).soft(features)
    return torch.cat((soft, weights.tensor(END)), 1)


def adapter_weights(config: VisionConfig, hidden_size: int) -> dict[str, WeightSpec]:
    """The weights of :class:`AdaptImage`: the embedder's for soft tokens, and the end row, which is a constant."""
    specs = embedder_weights(config.embedder, "vision", hidden_size)
    used = {n: specs[n] for n in ("embed_vision.soft_embedding_norm", "embed_vision.embedding_projection")}
    return used | {END: WeightSpec(END, (1, 1, hidden_size), "float", "embed_vision.embedding.weight")}


def adapter_read(source: Source, config: VisionConfig) -> Read:
    """Reads :func:`adapter_weights`; the end row is the embedder's output for the end-of-image id, in float32."""
    hidden_size = source.text.hidden_size
    rows = embed_hard_tokens(config.embedder, "vision", source.read, hidden_size)
    end = rows[config.eoi_id - config.embedder.vocab_offset].view(1, 1, hidden_size)

    def read(spec: WeightSpec, rows: tuple[int, int] | None = None) -> Tensor:
        return end if spec.name == END else source.read(spec, rows)

    return read


def trace_encoder(module: EncodeImage, pixels: int) -> dict[str, Tensor]:
    """Inputs to trace the encoder on at a resolution; each weight is a placeholder without data."""
    return {"images": torch.zeros(1, pixels, pixels, 3), **_placeholders(module.specs)}


def trace_adapter(module: AdaptImage) -> dict[str, Tensor]:
    """As :func:`trace_encoder`, for the adapter."""
    config = module.config
    return {
        "features": torch.zeros(1, config.soft_tokens, config.embedder.hidden_size),
        **_placeholders(module.specs),
    }


def weight_inputs(module: EncodeImage | AdaptImage, read: Read) -> dict[str, np.ndarray]:
    """The float32 weights of a module by graph input, for a runtime that takes them as inputs."""
    return {spec.input_name: read(spec).numpy() for spec in module.specs.values()}


def _placeholders(specs: Mapping[str, WeightSpec]) -> dict[str, Tensor]:
    return {spec.input_name: torch.empty(spec.shape) for spec in specs.values()}
