"""MobileNet-V5's architecture as plain data, read from timm's own model built without weights.

So the network is not defined a second time here, and ``vision_config.model_args`` means what it means to timm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from g3n_compiler.errors import WrongModel
from g3n_compiler.models.gemma3n.tower_config import VisionConfig
from g3n_compiler.models.gemma3n.vision_arguments import read_arguments

RESOLUTIONS = (256, 512, 768)
"""Image sides in pixels that the published model was trained for."""
MAX_RESOLUTION = 2048
"""In pixels per side: seven times as many pixels as the published model's largest image."""


@dataclass(frozen=True)
class Conv:
    """A spatial convolution with TensorFlow's "same" padding, dense or depthwise."""

    name: str
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    depthwise: bool
    bias: bool = False


@dataclass(frozen=True)
class Pointwise:
    """A 1x1 convolution, which is a linear layer over channels."""

    name: str
    in_channels: int
    out_channels: int


@dataclass(frozen=True)
class EdgeResidual:
    """Fused inverted bottleneck: a dense convolution that expands, then a pointwise one that projects."""

    name: str
    expand: Conv
    project: Pointwise
    skip: bool


@dataclass(frozen=True)
class InvertedResidual:
    """Universal inverted bottleneck of MobileNet-V4; ``scaled`` if a layer scale follows."""

    name: str
    start: Conv | None
    expand: Pointwise
    middle: Conv | None
    project: Pointwise
    scaled: bool
    skip: bool


@dataclass(frozen=True)
class Attention:
    """Multi-query attention over positions; keys and values can come from a downsampled map."""

    name: str
    heads: int
    query: Pointwise
    key_down: Conv | None
    key: Pointwise
    value_down: Conv | None
    value: Pointwise
    output: Pointwise
    scaled: bool
    skip: bool


Block = EdgeResidual | InvertedResidual | Attention


@dataclass(frozen=True)
class VisionLayout:
    """The encoder: stem, stages, and the fusion of the stages ``fused`` into ``side`` x ``side`` soft tokens."""

    stem: Conv
    stages: tuple[tuple[Block, ...], ...]
    fused: tuple[int, ...]
    fusion: InvertedResidual
    side: int
    norm_eps: float

    @property
    def width(self) -> int:
        """Channels per soft token."""
        return self.fusion.project.out_channels

    def check_resolution(self, pixels: int) -> None:
        """Raise unless an image of ``pixels`` x ``pixels`` pools evenly into the soft tokens."""
        stride = 1
        strides = []
        for stage in self.stages:
            for block in stage:
                stride *= _stride(block)
            strides.append(stride * self.stem.stride)
        finest = min(strides[i] for i in self.fused)
        if not 0 < pixels <= MAX_RESOLUTION or pixels % max(strides) or (pixels // finest) % self.side:
            raise WrongModel(
                f"images of {pixels} pixels do not pool into {self.side} x {self.side} tokens: "
                f"use {', '.join(str(r) for r in RESOLUTIONS)}"
            )


def read_layout(config: VisionConfig) -> VisionLayout:
    """The layout that ``config`` describes.

    Raises:
        WrongModel: timm cannot build it, or it has a part that Gemma 3n's encoder lacks.
    """
    import timm
    import torch

    arguments = read_arguments(config.model_args)
    try:
        with torch.device("meta"):
            model = timm.create_model(config.architecture, pretrained=False, **arguments)
    except Exception as error:  # timm's builders can raise anything
        raise WrongModel(f"timm cannot build the vision tower from vision_config.model_args: {error!r}") from None
    layout = VisionLayout(
        stem=_conv("conv_stem.conv", model.conv_stem.conv, bias=config.stem_bias),
        stages=tuple(
            tuple(_block(f"blocks.{i}.{j}", block) for j, block in enumerate(stage))
            for i, stage in enumerate(model.blocks)
        ),
        # Index 0 is the stem, which this network never fuses.
        fused=tuple(i - 1 for i in model.msfa_indices),
        fusion=_inverted("msfa.ffn", model.msfa.ffn),
        side=int(model.msfa.output_resolution[0]),
        norm_eps=float(model.msfa.norm.eps),
    )
    if min(layout.fused) < 0 or layout.side**2 != config.soft_tokens or layout.width != config.embedder.hidden_size:
        raise WrongModel(
            f"the vision tower gives {layout.side**2} tokens of {layout.width}, but the config says "
            f"{config.soft_tokens} of {config.embedder.hidden_size}"
        )
    return layout


def _block(name: str, block: Any) -> Block:
    readers: dict[str, Callable[[str, Any], Block]] = {
        "EdgeResidual": _edge,
        "UniversalInvertedResidual": _inverted,
        "MobileAttention": _attention,
    }
    kind = type(block).__name__
    if kind not in readers:
        raise WrongModel(f"{name} of the vision tower is a {kind}, which is not part of Gemma 3n's encoder")
    return readers[kind](name, block)


def _edge(name: str, block: Any) -> EdgeResidual:
    _require_absent(name, block, "aa", "se")
    expand = _conv(f"{name}.conv_exp", block.conv_exp)
    return EdgeResidual(name, expand, _pointwise(f"{name}.conv_pwl", block.conv_pwl), bool(block.has_skip))


def _inverted(name: str, block: Any) -> InvertedResidual:
    _require_absent(name, block, "dw_end", "se")
    start, middle = (
        None if _absent(part) else _conv(f"{name}.{kind}.conv", part.conv)
        for kind, part in (("dw_start", block.dw_start), ("dw_mid", block.dw_mid))
    )
    return InvertedResidual(
        name,
        start,
        _pointwise(f"{name}.pw_exp.conv", block.pw_exp.conv),
        middle,
        _pointwise(f"{name}.pw_proj.conv", block.pw_proj.conv),
        not _absent(block.layer_scale),
        bool(block.has_skip),
    )


def _attention(name: str, block: Any) -> Attention:
    attn = block.attn
    if block.conv_cpe_dw is not None or type(attn).__name__ != "MultiQueryAttention2d" or attn.has_query_strides:
        raise WrongModel(f"{name} of the vision tower has an attention that is not part of Gemma 3n's encoder")
    key_down, value_down = (
        _conv(f"{name}.attn.{kind}.down_conv", part.down_conv) if hasattr(part, "down_conv") else None
        for kind, part in (("key", attn.key), ("value", attn.value))
    )
    return Attention(
        name,
        int(attn.num_heads),
        _pointwise(f"{name}.attn.query.proj", attn.query.proj),
        key_down,
        _pointwise(f"{name}.attn.key.proj", attn.key.proj),
        value_down,
        _pointwise(f"{name}.attn.value.proj", attn.value.proj),
        _pointwise(f"{name}.attn.output.proj", attn.output.proj),
        not _absent(block.layer_scale),
        bool(block.has_skip),
    )


def _conv(name: str, conv: Any, bias: bool = False) -> Conv:
    kernel, stride = int(conv.kernel_size[0]), int(conv.stride[0])
    depthwise = conv.groups == conv.in_channels == conv.out_channels
    plain = conv.dilation == (1, 1) and conv.kernel_size == (kernel, kernel) and conv.stride == (stride, stride)
    biased = conv.bias is not None and not name.startswith("conv_stem")
    if not plain or biased or (conv.groups != 1 and not depthwise):
        raise WrongModel(f"{name} of the vision tower is {conv}, which is not part of Gemma 3n's encoder")
    return Conv(name, int(conv.in_channels), int(conv.out_channels), kernel, stride, depthwise, bias)


def _pointwise(name: str, conv: Any) -> Pointwise:
    if conv.kernel_size != (1, 1) or conv.stride != (1, 1) or conv.groups != 1 or conv.bias is not None:
        raise WrongModel(f"{name} of the vision tower is {conv}, expected a 1x1 convolution without bias")
    return Pointwise(name, int(conv.in_channels), int(conv.out_channels))


def _stride(block: Block) -> int:
    if isinstance(block, EdgeResidual):
        return block.expand.stride
    convs = (block.start, block.middle) if isinstance(block, InvertedResidual) else ()
    return math.prod(conv.stride for conv in convs if conv is not None)


def _absent(part: Any) -> bool:
    return type(part).__name__ == "Identity"


def _require_absent(name: str, block: Any, *parts: str) -> None:
    if found := [p for p in parts if not _absent(getattr(block, p))]:
        raise WrongModel(f"{name} of the vision tower has a {found[0]}, which is not part of Gemma 3n's encoder")
