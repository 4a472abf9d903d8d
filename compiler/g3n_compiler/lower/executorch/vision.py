"""The vision tower as a program of its own: a method for each image size, over one copy of the weights.

========================= ======================= ===================================================================
``vision_encoder_<side>`` ``image [1, S, S, 3]``  soft tokens in the text space, then the end row ``[1, T + 1, hidden]``
``vision_blocks_<side>``  the same                outputs of the stem and each block, the features, the soft tokens
========================= ======================= ===================================================================

Every block is a delegate. The second method calls the same delegates as the first and serves verification.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
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
from g3n_compiler.lower.executorch.dialect import gelu
from g3n_compiler.lower.executorch.weights import XnnpackWeights, checkpoint_parts
from g3n_compiler.lower.signatures.vision import adapt, adapter_weights
from g3n_compiler.models.dialect import Dialect, same_padding
from g3n_compiler.models.gemma3n.tower_config import VisionConfig
from g3n_compiler.models.gemma3n.vision import VisionEncoder
from g3n_compiler.models.gemma3n.vision_layout import Block, VisionLayout, read_layout
from g3n_compiler.models.gemma3n.vision_weights import encoder_weights
from g3n_compiler.models.weights import Read, TensorWeights, WeightSpec
from g3n_compiler.quantize.recipe import Recipe
from g3n_runtime.executorch.vision import IDS, SIZES, blocks_name, encoder_name

Shapes = tuple[tuple[int, ...], ...]


class VisionOps(TowerOps, Dialect):
    """Convolutions with filters in the layout that XNNPACK wants; uneven padding is an operator of its own."""

    def gelu(self, x: Tensor) -> Tensor:
        return gelu(x)

    def matmul_transposed(self, a: Tensor, b: Tensor) -> Tensor:
        size = b.shape[-1]
        turned = torch.permute_copy(b.view(1, -1, size), (0, 2, 1))
        return torch.bmm(a.view(1, -1, size), turned).view(1, 1, -1, b.shape[2])

    def conv(self, x: Tensor, kernel: Tensor, bias: Tensor | None, stride: int, depthwise: bool) -> Tensor:
        size = kernel.shape[-1]
        high, wide = (same_padding(length, size, stride) for length in x.shape[1:3])
        padding = (high[0], wide[0])
        if high[0] != high[1] or wide[0] != wide[1]:
            x, padding = nn.functional.pad(x, (0, 0, *wide, *high)), (0, 0)
        groups = kernel.shape[0] if depthwise else 1
        y = nn.functional.conv2d(x.permute(0, 3, 1, 2), kernel, bias, stride, padding, groups=groups)
        return y.permute(0, 2, 3, 1)


class _VisionPiece(nn.Module):
    def __init__(self, layout: VisionLayout, weights: XnnpackWeights, means: Sequence[int]) -> None:
        super().__init__()
        self.layout, self.weights, self.ops = layout, weights, VisionOps(means)

    def encoder(self) -> VisionEncoder:
        return VisionEncoder(self.layout, self.weights, self.ops)


class _Stem(_VisionPiece):
    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return (self.encoder().stem(image),)


class _Block(_VisionPiece):
    def __init__(self, layout: VisionLayout, weights: XnnpackWeights, means: Sequence[int], block: Block) -> None:
        super().__init__(layout, weights, means)
        self._block = block

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.encoder().block(self._block, x),)


class _Fuse(_VisionPiece):
    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        return (self.encoder().fuse(list(maps)),)


class _Adapt(nn.Module):
    def __init__(self, config: VisionConfig, weights: XnnpackWeights, means: Sequence[int]) -> None:
        super().__init__()
        self.config, self.weights, self.ops = config, weights, VisionOps(means)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        return (adapt(self.config, self.weights, features, self.ops),)


@dataclass(frozen=True)
class _Chain:
    """The delegates for one image size, in order: stem, blocks, fusion, adapter."""

    pieces: list[TowerPiece]
    fused: tuple[int, ...]
    """Indices of the delegates whose maps are fused."""


def chain(config: VisionConfig, layout: VisionLayout, hidden: int, side: int) -> _Chain:
    """The tower for images of ``side`` pixels, divided into delegates."""
    specs, adapter = encoder_weights(layout), adapter_weights(config, hidden)

    def own(prefix: str) -> dict[str, WeightSpec]:
        return {name: spec for name, spec in specs.items() if name.startswith(prefix)}

    def piece(kind: str, prefix: str, module: Callable[..., nn.Module], inputs: Shapes, *more: Block) -> TowerPiece:
        found = own(prefix)
        return TowerPiece(kind, prefix, found, lambda w: module(layout, w, _means(found), *more), inputs)

    shapes = block_shapes(layout, side)
    pieces = [piece("stem", "vision.conv_stem.", _Stem, ((1, side, side, 3),))]
    ends = []
    for stage in layout.stages:
        for block in stage:
            kind = repr(block).replace(block.name, "")
            pieces.append(piece(kind, f"vision.{block.name}.", _Block, (shapes[len(pieces) - 1],), block))
        ends.append(len(pieces) - 1)
    fused = tuple(ends[i] for i in layout.fused)
    pieces.append(piece("fusion", "vision.msfa.", _Fuse, tuple(shapes[i] for i in fused)))
    means = [*_means(adapter), hidden]
    pieces.append(TowerPiece("adapter", "embed_vision.", adapter, lambda w: _Adapt(config, w, means), (shapes[-1],)))
    return _Chain(pieces, fused)


def block_shapes(layout: VisionLayout, side: int) -> list[tuple[int, ...]]:
    """Shapes of what :meth:`VisionEncoder.block_outputs` yields."""
    specs = encoder_weights(layout)
    weights = TensorWeights({name: torch.empty(spec.shape, device="meta") for name, spec in specs.items()})
    image = torch.empty(1, side, side, 3, device="meta")
    return [tuple(x.shape) for x in VisionEncoder(layout, weights).block_outputs(image)]


class EncodeImage(nn.Module):
    """``vision_encoder_<side>``, or with ``probe`` ``vision_blocks_<side>``."""

    def __init__(self, delegates: Sequence[nn.Module], fused: Sequence[int], probe: bool) -> None:
        super().__init__()
        self.delegates = nn.ModuleList(delegates)
        self.fused, self.probe = tuple(fused), probe

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        *blocks, fuse, adapter = self.delegates
        outputs, x = [], image
        for delegate in blocks:
            x = delegate(x)[0]
            outputs.append(x)
        features = fuse(*(outputs[i] for i in self.fused))[0]
        tokens = adapter(features)[0]
        return (*outputs, features, tokens) if self.probe else (tokens,)


def vision_specs(config: VisionConfig, hidden: int) -> dict[str, WeightSpec]:
    """Weights of the encoder and of the adapter, for a text model of width ``hidden``."""
    return encoder_weights(read_layout(config)) | adapter_weights(config, hidden)


def image_encoder(config: VisionConfig, hidden: int, templates: TowerTemplates, side: int) -> EncodeImage:
    """The tower over delegates, for images of ``side`` pixels."""
    made = chain(config, read_layout(config), hidden, side)
    return EncodeImage([templates(piece) for piece in made.pieces], made.fused, probe=False)


def write_vision(
    config: VisionConfig, hidden: int, recipe: Recipe, read: Read, resolutions: Sequence[int], path: Path
) -> Delegation:
    """Write the program; the same arguments give the same bytes.

    Args:
        hidden: width of the text model.
        read: reads the weights of the encoder and of the adapter (``signatures.vision.adapter_weights``).

    Raises:
        NotFinite: a weight holds a NaN or an infinity.
    """
    layout = read_layout(config)
    specs = vision_specs(config, hidden)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".vision-") as folder:
        stored = store_weights(specs, recipe, checkpoint_parts(read), Path(folder), {})
        templates = TowerTemplates(recipe, stored)
        methods: dict[str, TowerMethod] = {}
        for side in resolutions:
            made = chain(config, layout, hidden, side)
            delegates = [templates(piece) for piece in made.pieces]
            inputs = ((1, side, side, 3),)
            module = EncodeImage(delegates, made.fused, probe=False)
            methods[encoder_name(side)] = TowerMethod(module, inputs, made.pieces)
            module = EncodeImage(delegates, made.fused, probe=True)
            methods[blocks_name(side)] = TowerMethod(module, inputs, made.pieces, measured=False)
        constants = {SIZES: list(resolutions), IDS: [config.boi_id, config.image_id, config.eoi_id]}
        return write_program(methods, templates, stored, constants, path)


def _means(specs: dict[str, WeightSpec]) -> list[int]:
    """Sizes of the dimensions that norms average over: those of their gains."""
    return [spec.shape[0] for spec in specs.values() if len(spec.shape) == 1]
