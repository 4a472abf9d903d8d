"""The vision encoder's weights: their names, their shapes, and their tensors in the checkpoint."""

from __future__ import annotations

from g3n_compiler.models.gemma3n.soft_tokens import embedder_weights
from g3n_compiler.models.gemma3n.tower_config import VisionConfig
from g3n_compiler.models.gemma3n.vision_layout import (
    Attention,
    Conv,
    EdgeResidual,
    InvertedResidual,
    Pointwise,
    VisionLayout,
    read_layout,
)
from g3n_compiler.models.weights import WeightSpec

TOWER = "vision_tower.timm_model."


def vision_weights(config: VisionConfig, hidden_size: int) -> dict[str, WeightSpec]:
    """Every tensor of the tower and its embedder, for a text model of ``hidden_size``."""
    return encoder_weights(read_layout(config)) | embedder_weights(config.embedder, "vision", hidden_size)


def encoder_weights(layout: VisionLayout) -> dict[str, WeightSpec]:
    """Every weight of the encoder, in the order of use."""
    specs: dict[str, WeightSpec] = {}

    def norm(name: str, channels: int, suffix: str = ".weight") -> None:
        key = f"vision.{name}"
        specs[key] = WeightSpec(key, (channels,), "float", TOWER + name + suffix)

    def linear(layer: Pointwise) -> None:
        key = f"vision.{layer.name}"
        shape = (layer.out_channels, layer.in_channels)
        specs[key] = WeightSpec(key, shape, "vision", TOWER + layer.name + ".weight")

    def conv(layer: Conv) -> None:
        key, k = f"vision.{layer.name}", layer.kernel
        shape = (1, k, k, layer.out_channels) if layer.depthwise else (layer.out_channels, k, k, layer.in_channels)
        axes = (1, 2, 3, 0) if layer.depthwise else (0, 2, 3, 1)
        specs[key] = WeightSpec(key, shape, "float", TOWER + layer.name + ".weight", axes=axes)
        if layer.bias:
            bias = key + ".bias"
            specs[bias] = WeightSpec(bias, (layer.out_channels,), "float", TOWER + layer.name + ".bias")

    def inverted(block: InvertedResidual) -> None:
        if block.start is not None:
            conv(block.start)
            norm(f"{block.name}.dw_start.bn", block.start.out_channels)
        linear(block.expand)
        norm(f"{block.name}.pw_exp.bn", block.expand.out_channels)
        if block.middle is not None:
            conv(block.middle)
            norm(f"{block.name}.dw_mid.bn", block.middle.out_channels)
        linear(block.project)
        norm(f"{block.name}.pw_proj.bn", block.project.out_channels)
        scale(block.name, block.scaled, block.project.out_channels)

    def scale(name: str, scaled: bool, channels: int) -> None:
        if scaled:
            norm(f"{name}.layer_scale.gamma", channels, suffix="")

    def attention(block: Attention) -> None:
        norm(f"{block.name}.norm", block.query.in_channels)
        linear(block.query)
        for kind, down, projection in (
            ("key", block.key_down, block.key),
            ("value", block.value_down, block.value),
        ):
            if down is not None:
                conv(down)
                norm(f"{block.name}.attn.{kind}.norm", down.out_channels)
            linear(projection)
        linear(block.output)
        scale(block.name, block.scaled, block.output.out_channels)

    conv(layout.stem)
    norm("conv_stem.bn", layout.stem.out_channels)
    for stage in layout.stages:
        for block in stage:
            if isinstance(block, EdgeResidual):
                conv(block.expand)
                norm(f"{block.name}.bn1", block.expand.out_channels)
                linear(block.project)
                norm(f"{block.name}.bn2", block.project.out_channels)
            elif isinstance(block, InvertedResidual):
                inverted(block)
            else:
                attention(block)
    inverted(layout.fusion)
    norm("msfa.norm", layout.width)
    return specs
