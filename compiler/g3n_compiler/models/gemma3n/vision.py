"""The vision tower, functional and channels-last, written so that exporters and delegates take it whole.

Reference: timm's ``mobilenetv5_300m_enc`` under ``transformers`` ``Gemma3nModel.get_image_features``. It differs in
form, not in result:

* Pointwise convolutions, which hold nearly all weights, are linear layers over ``[1, H, W, C]``; they are quantised and
  streamed like the decoder's.
* Attention has one key-value head, so the queries of all heads are rows of one product, and nothing is transposed.
* Upsampling by two is a concatenation.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from g3n_compiler.models.dialect import Dialect
from g3n_compiler.models.gemma3n.vision_layout import (
    Attention,
    Block,
    Conv,
    EdgeResidual,
    InvertedResidual,
    Pointwise,
    VisionLayout,
)
from g3n_compiler.models.weights import Weights


class VisionEncoder:
    """The encoder's arithmetic over any :class:`Weights` and :class:`Dialect`."""

    def __init__(self, layout: VisionLayout, weights: Weights, dialect: Dialect | None = None) -> None:
        self.layout = layout
        self.weights = weights
        self.dialect = dialect or Dialect()

    def features(self, images: Tensor) -> Tensor:
        """Soft tokens before the embedder.

        Args:
            images: ``[1, S, S, 3]`` float, RGB in 0..1.

        Returns:
            ``[1, side * side, width]``, row by row from the top left.
        """
        return deque(self.block_outputs(images), maxlen=1)[0]

    def block_outputs(self, images: Tensor) -> Iterator[Tensor]:
        """The output of the stem, of each block, and finally the :meth:`features`."""
        self.layout.check_resolution(images.shape[1])
        x = self.stem(images)
        yield x
        maps = []
        for stage in self.layout.stages:
            for block in stage:
                x = self.block(block, x)
                yield x
            maps.append(x)
        yield self.fuse([maps[i] for i in self.layout.fused])

    def stem(self, images: Tensor) -> Tensor:
        """``[1, S, S, 3]`` -> ``[1, S / 2, S / 2, channels]``."""
        return self._gelu_norm("conv_stem.bn", self._conv(self.layout.stem, images))

    def block(self, block: Block, x: Tensor) -> Tensor:
        """One block over a map ``[1, H, W, C]``."""
        if isinstance(block, EdgeResidual):
            return self._edge(block, x)
        return self._inverted(block, x) if isinstance(block, InvertedResidual) else self._attention(block, x)

    def fuse(self, maps: list[Tensor]) -> Tensor:
        """The features from the maps of the stages that are fused, as :meth:`features` returns them."""
        return self._fuse(maps).reshape(1, -1, self.layout.width) * math.sqrt(self.layout.width)

    def _edge(self, block: EdgeResidual, x: Tensor) -> Tensor:
        y = self._gelu_norm(f"{block.name}.bn1", self._conv(block.expand, x))
        y = self._norm(f"{block.name}.bn2", self._linear(block.project, y))
        return x + y if block.skip else y

    def _inverted(self, block: InvertedResidual, x: Tensor) -> Tensor:
        p, y = block.name, x
        if block.start is not None:
            y = self._norm(f"{p}.dw_start.bn", self._conv(block.start, y))
        y = self._gelu_norm(f"{p}.pw_exp.bn", self._linear(block.expand, y))
        if block.middle is not None:
            y = self._gelu_norm(f"{p}.dw_mid.bn", self._conv(block.middle, y))
        y = self._norm(f"{p}.pw_proj.bn", self._linear(block.project, y))
        return self._residual(p, block.scaled, block.skip, x, y)

    def _attention(self, block: Attention, x: Tensor) -> Tensor:
        """Softmax(q k / sqrt(d)) v with one key-value head: ``[1, H, W, C]`` -> the same."""
        p, (_, height, width, _) = block.name, x.shape
        y = self._norm(f"{p}.norm", x)
        size = block.key.out_channels
        query = self._linear(block.query, y).reshape(1, 1, -1, size) * size**-0.5
        key = self._narrowed(f"{p}.attn.key", block.key_down, block.key, y)
        value = self._narrowed(f"{p}.attn.value", block.value_down, block.value, y)
        seen = torch.softmax(self.dialect.matmul_transposed(query, key), -1)
        out = self.dialect.matmul_transposed(seen, value.transpose(2, 3))
        y = self._linear(block.output, out.reshape(1, height, width, -1))
        return self._residual(p, block.scaled, block.skip, x, y)

    def _narrowed(self, name: str, down: Conv | None, projection: Pointwise, x: Tensor) -> Tensor:
        """Keys or values ``[1, 1, positions, size]``."""
        if down is not None:
            x = self._norm(f"{name}.norm", self._conv(down, x))
        return self._linear(projection, x).reshape(1, 1, -1, projection.out_channels)

    def _fuse(self, maps: list[Tensor]) -> Tensor:
        """The multi-scale fusion adapter: maps resized to one size, mixed, and pooled to ``side`` x ``side``."""
        height = maps[0].shape[1]
        resized = []
        for x in maps:
            while x.shape[1] < height:
                x = _doubled(x)
            resized.append(x)
        y = self._inverted(self.layout.fusion, torch.cat(resized, -1))
        if height != self.layout.side:
            y = self.dialect.average_pool(y, height // self.layout.side)
        return self._norm("msfa.norm", y)

    def _residual(self, name: str, scaled: bool, skip: bool, x: Tensor, y: Tensor) -> Tensor:
        if scaled:
            y = y * self.weights.tensor(f"vision.{name}.layer_scale.gamma")
        return x + y if skip else y

    def _norm(self, name: str, x: Tensor) -> Tensor:
        """RMS norm over channels."""
        scale = torch.rsqrt(self.dialect.mean(x * x) + self.layout.norm_eps)
        return x * scale * self.weights.tensor(f"vision.{name}")

    def _gelu_norm(self, name: str, x: Tensor) -> Tensor:
        return self.dialect.gelu(self._norm(name, x))

    def _linear(self, layer: Pointwise, x: Tensor) -> Tensor:
        return self.weights.linear(f"vision.{layer.name}", x)

    def _conv(self, conv: Conv, x: Tensor) -> Tensor:
        name = f"vision.{conv.name}"
        bias = self.weights.tensor(f"{name}.bias") if conv.bias else None
        return self.dialect.conv(x, self.weights.tensor(name), bias, conv.stride, conv.depthwise)


def _doubled(x: Tensor) -> Tensor:
    """Nearest-neighbour upsampling ``[1, H, W, C] -> [1, 2H, 2W, C]``."""
    _, height, width, channels = x.shape
    x = x.reshape(height, width, 1, channels)
    x = torch.cat((x, x), 2).reshape(height, 1, 2 * width, channels)
    return torch.cat((x, x), 1).reshape(1, 2 * height, 2 * width, channels)
