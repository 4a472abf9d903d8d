"""A checkpoint seen through a slice: its tensors, cut as they are read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from g3n_compiler.checkpoint.reader import Checkpoint
from g3n_compiler.modules.weights import WeightSpec, dead_weights, embedding_weights, text_weights
from g3n_compiler.slice.elastic import Size
from g3n_compiler.slice.plan import Slice

Ranges = tuple[tuple[int, int], ...]
LAYER = re.compile(r"layers\.(\d+)\.(.+)")


class Cut(NamedTuple):
    """Where a sliced tensor lies: the source's tensor and the parts of its rows and columns (``None``: all)."""

    tensor: str
    rows: Ranges | None = None
    columns: Ranges | None = None


class SlicedCheckpoint(Checkpoint):
    """Numbered and shaped as the slice; every read takes from the source only what the slice keeps of it.

    Gate and up projections lose their last rows and the down projection its last columns; the per-layer table keeps
    the columns, and its model projection the rows, of the layers that stay.
    """

    def __init__(self, directory: Path, plan: Slice) -> None:
        super().__init__(directory)
        self.source = self.text
        self.plan = plan
        self.text = plan.apply(self.source)

    def tensor_name(self, relative: str) -> str:
        return super().tensor_name(self._cut(relative).tensor)

    def read_relative(self, relative: str, rows: tuple[int, int] | None = None) -> Tensor:
        cut = self._cut(relative)
        if cut.rows is None:
            value = super().read_relative(cut.tensor, rows)
        else:
            pieces = [super(SlicedCheckpoint, self).read_relative(cut.tensor, r) for r in _within(cut.rows, rows)]
            value = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        if cut.columns is None:
            return value
        return torch.cat([value[:, begin:end] for begin, end in cut.columns], 1)

    def check_shape(self, spec: WeightSpec) -> None:
        """The source's own tensor must have the shape that the source's config implies; towers are not cut."""
        if self.tower_of(spec.tensor):
            super().check_shape(spec)
            return
        specs = text_weights(self.source) | embedding_weights(self.source)
        match = LAYER.fullmatch(spec.name)
        super().check_shape(specs[self._renumbered(match) if match else spec.name])

    def dead_tensors(self) -> dict[str, str]:
        dead = dead_weights(self.source)
        for name in self.entries:
            relative = name.removeprefix(self.text_prefix)
            match = LAYER.fullmatch(relative)
            if match and relative != name and int(match[1]) not in self.plan.kept:
                dead[relative] = "the slice skips this layer"
        return dead

    def _cut(self, relative: str) -> Cut:
        c, ple = self.text, self.text.ple_dim
        kept = tuple((i * ple, (i + 1) * ple) for i in self.plan.kept)
        if relative == "per_layer_model_projection.weight":
            return Cut(relative, rows=kept)
        if relative == "embed_tokens_per_layer.weight":
            return Cut(relative, columns=kept)
        match = LAYER.fullmatch(relative)
        if match is None:
            return Cut(relative)
        width = ((0, c.ffn_dims[int(match[1])]),)
        tensor = self._renumbered(match)
        if match[2] in ("mlp.gate_proj.weight", "mlp.up_proj.weight"):
            return Cut(tensor, rows=width)
        return Cut(tensor, columns=width) if match[2] == "mlp.down_proj.weight" else Cut(tensor)

    def _renumbered(self, match: re.Match[str]) -> str:
        return f"layers.{self.plan.kept[int(match[1])]}.{match[2]}"


def open_size(checkpoint: Checkpoint, size: Size) -> SlicedCheckpoint:
    """A size of an elastic bundle, read as ``checkpoint`` is, which the bundle was made from."""
    sliced = SlicedCheckpoint(checkpoint.directory, size.plan)
    sliced.text = size.config
    sliced.update, sliced.hard_rows = checkpoint.update, checkpoint.hard_rows
    return sliced


def _within(ranges: Ranges, rows: tuple[int, int] | None) -> Iterator[tuple[int, int]]:
    """The parts of the source's ``ranges`` that rows ``[begin, end)`` of the slice come from."""
    begin, end = rows or (0, sum(last - first for first, last in ranges))
    at = 0
    for first, last in ranges:
        low, high = max(begin, at), min(end, at + last - first)
        if low < high:
            yield first + low - at, first + high - at
        at += last - first
