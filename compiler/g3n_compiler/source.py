"""What a compile reads: a checkpoint, seen through a slice, an adapter and the chosen towers.

This is the only module that combines these. A source never changes; another view of the same checkpoint is another
source over the same open files.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from g3n_compiler.checkpoint.lora import LoraAdapter
from g3n_compiler.checkpoint.reader import Checkpoint
from g3n_compiler.checkpoint.remark import Remark, no_remark
from g3n_compiler.models.embedding_tables import embedding_weights
from g3n_compiler.models.family import Cut, Family, Ranges
from g3n_compiler.models.family_names import tensor_names
from g3n_compiler.models.registry import family_for
from g3n_compiler.models.shape import TextShape
from g3n_compiler.models.weights import WeightSpec
from g3n_compiler.rewrite.apply import Rewrites
from g3n_compiler.rewrite.choose import choose_rewrites
from g3n_compiler.slice.plan import Slice

if TYPE_CHECKING:
    from g3n_compiler.checkpoint.tensor_names import Naming
    from g3n_compiler.models.gemma3n.soft_tokens import HardTokenRows
    from g3n_compiler.models.gemma3n.tower_config import AudioConfig, VisionConfig

TEXT = "text"
MODALITIES = (TEXT, "vision", "audio")
LAYER = re.compile(r"layers\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Source:
    """The weights and the configuration that compiling, verifying and calibrating read.

    Every read returns float32. Names are relative to the text model, or begin with a tower's own prefix; layers are
    numbered as in the slice.
    """

    checkpoint: Checkpoint
    family: Family
    whole: TextShape
    """The decoder's shape in the checkpoint."""
    text: TextShape
    """The decoder's shape as compiled: sliced, and divided into blocks if there are nested sizes."""
    plan: Slice | None = None
    adapter: LoraAdapter | None = None
    modalities: tuple[str, ...] = (TEXT,)
    """Those modalities of the checkpoint that are compiled."""
    rewrites: Rewrites | None = None
    """Exact rewrites that every read applies, chosen for the whole checkpoint."""

    @classmethod
    def open(
        cls,
        directory: Path,
        plan: Slice | None = None,
        adapter: Path | None = None,
        modalities: Collection[str] = MODALITIES,
        remark: Remark = no_remark,
    ) -> Source:
        """Open a checkpoint's folder; only headers and small files are read.

        Args:
            remark: called with what was found beside what is read.

        Raises:
            CheckpointError: the folder, a shard's header, the configuration or the adapter is damaged or does not fit.
        """
        checkpoint = Checkpoint(directory, remark)
        try:
            family = family_for(checkpoint.config)
            whole = family.text_shape(checkpoint.config, checkpoint.generation)
            checkpoint = checkpoint.renamed(tensor_names(checkpoint, family, whole, remark))
            source = cls(checkpoint, family, whole, whole)
            chosen = tuple(m for m in MODALITIES if m in modalities and (m == TEXT or m in source.towers))
            source = replace(source, modalities=chosen)
            if plan is not None:
                source = source.sliced(plan)
            return source if adapter is None else source.adapted(adapter)
        except BaseException:
            checkpoint.close()
            raise

    def close(self) -> None:
        """Close the checkpoint's files, which all views of it share, and the adapter's."""
        self.checkpoint.close()
        if self.adapter is not None:
            self.adapter.close()

    # -- other views of the same checkpoint ----------------------------------------------------------------------------

    def sliced(self, plan: Slice, shape: TextShape | None = None) -> Source:
        """The slice ``plan`` of the whole checkpoint.

        Args:
            shape: the slice's shape if it is divided into blocks, as it is for one of several sizes.
        """
        return replace(self, plan=plan, text=shape or plan.apply(self.whole))

    def divided(self, shape: TextShape) -> Source:
        """The same weights, divided into blocks as in ``shape``."""
        return replace(self, text=shape)

    def adapted(self, adapter: Path, remark: Remark = no_remark) -> Source:
        """The same source, with a LoRA adapter merged into every weight when it is read."""
        merged = LoraAdapter(adapter, self.checkpoint, [prefix.text for prefix in self.naming.text], remark)
        dead = {name: why for name, why in self.dead_tensors().items() if self.text_prefix + name in merged.names}
        if dead:
            name = min(dead)
            remark(f"{len(dead)} tensors that the adapter changes have no effect, e.g. {name}: {dead[name]}")
        return replace(self, adapter=merged)

    def rewritten(self, sizes: Mapping[str, Tensor] | None = None) -> Source:
        """The same function in weights that rounding spoils less, see :mod:`g3n_compiler.rewrite.choose`.

        The rewrites are chosen for the whole checkpoint with its adapter, so that all slices and sizes have the same;
        of the towers, for those that are compiled.

        Args:
            sizes: what examples say of the channels, by their names; others are estimated from the weights.
        """
        entries, towers = self.checkpoint.entries, [t for t in self.towers if t in self.modalities]
        chosen = choose_rewrites(
            [*self.family.channels(self.whole), *(c for t in towers for c in self.family.towers[t].channels(self))],
            self.family.turns(self.whole),
            lambda tensor: tuple(entries[self._whole_name(tensor)].shape),
            lambda tensor, rows=None: self._stored(self._whole_name(tensor), rows),
            sizes,
        )
        return replace(self, rewrites=chosen)

    @property
    def original(self) -> Source:
        """The same source as the checkpoint has it, without rewrites."""
        return replace(self, rewrites=None)

    # -- what it contains ----------------------------------------------------------------------------------------------

    @property
    def directory(self) -> Path:
        return self.checkpoint.directory

    @cached_property
    def naming(self) -> Naming:
        """How the family's tensors are called in a checkpoint like this one."""
        return self.family.naming(self.checkpoint.config)

    @property
    def text_prefix(self) -> str:
        """What is before the names of the text model, whatever the saver put there."""
        return self.naming.text[0].text

    @property
    def tower_prefix(self) -> str:
        """What is before the names of the towers, whatever the saver put there."""
        return self.naming.towers[0].text

    @cached_property
    def towers(self) -> tuple[str, ...]:
        """The towers whose encoder the checkpoint has; an embedder alone embeds nothing."""
        if not self.naming.has_towers:
            return ()
        names = [name.removeprefix("model.") for name in self.checkpoint.entries]
        encoders = {tower: tensors.tensors[0] for tower, tensors in self.family.towers.items()}
        return tuple(t for t, prefix in encoders.items() if any(name.startswith(prefix) for name in names))

    @cached_property
    def vision(self) -> VisionConfig | None:
        """The vision tower; ``None`` if the checkpoint has no tensor of one."""
        return self.family.vision(self) if "vision" in self.towers else None

    @cached_property
    def audio(self) -> AudioConfig | None:
        """The audio tower; ``None`` if the checkpoint has no tensor of one."""
        return self.family.audio(self) if "audio" in self.towers else None

    @cached_property
    def hard_token_rows(self) -> HardTokenRows | None:
        """Rows of the token table that belong to the compiled towers."""
        return self.family.hard_token_rows(self)

    def tower_of(self, name: str) -> str | None:
        """The tower that a tensor's full name belongs to."""
        relative = name.removeprefix(self.tower_prefix)
        return next((t for t, tower in self.family.towers.items() if relative.startswith(tower.tensors)), None)

    def tensor_name(self, relative: str) -> str:
        """Full name of a tensor in the checkpoint's files."""
        return self._whole_name(self.in_whole(relative))

    def name_in_slice(self, relative: str) -> str | None:
        """What a tensor, named as in the whole checkpoint, is called in the slice; ``None`` if its layer is skipped."""
        match = LAYER.fullmatch(relative)
        if self.plan is None or match is None:
            return relative
        layer = int(match[1])
        return f"layers.{self.plan.kept.index(layer)}.{match[2]}" if layer in self.plan.kept else None

    def shape_of(self, relative: str) -> tuple[int, ...]:
        """The shape of what :meth:`read_relative` returns."""
        cut, shape = self._cut(relative), self.checkpoint.entries[self.tensor_name(relative)].shape
        parts = zip([*cut, *[None] * len(shape)], shape, strict=False)
        return tuple(n if part is None else sum(last - first for first, last in part) for part, n in parts)

    def dtype(self, relative: str) -> torch.dtype:
        """The dtype in which the checkpoint stores a tensor."""
        return self.checkpoint.entries[self.tensor_name(relative)].dtype

    def dead_tensors(self) -> Mapping[str, str]:
        """Tensors of the text model that inference never reads, by relative name, with the reason."""
        dead = self.family.dead_weights(self.whole)
        if self.plan is not None:
            for name in self.checkpoint.entries:
                relative = name.removeprefix(self.text_prefix)
                match = LAYER.fullmatch(relative)
                if match and relative != name and int(match[1]) not in self.plan.kept:
                    dead[relative] = "the slice skips this layer"
        return dead

    def check_shape(self, spec: WeightSpec) -> None:
        """Raise unless the checkpoint holds ``spec`` with the shape that the configuration implies."""
        if self.plan is not None and not self.tower_of(spec.tensor):
            # A tensor that is cut must have the shape that the whole checkpoint's configuration implies.
            specs = self.family.text_weights(self.whole) | embedding_weights(self.whole)
            spec = specs[self.in_whole(spec.name)]
        prefix = self.tower_prefix if self.tower_of(spec.tensor) else self.text_prefix
        self.checkpoint.check_shape(prefix + spec.tensor, spec)

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(self, spec: WeightSpec, rows: tuple[int, int] | None = None) -> Tensor:
        """The float32 value of ``spec``, or some of its rows (counted within the spec), in the graph's layout."""
        begin, end = spec.rows or (0, spec.shape[0])
        if rows is not None:
            begin, end = begin + rows[0], begin + rows[1]
        whole = spec.rows is None and rows is None
        value = self.read_relative(spec.tensor, None if whole else (begin, end))
        if spec.role == "embedding" and self.hard_token_rows is not None:
            value = self.hard_token_rows(begin, value)
        if spec.axes is not None:
            value = value.permute(spec.axes).contiguous()
        if spec.columns is not None:
            value = torch.cat([value[:, first:last] for first, last in spec.columns], 1)
        return value.view(-1, *spec.shape[1:])

    def read_relative(self, relative: str, rows: tuple[int, int] | None = None) -> Tensor:
        """A tensor by its relative name, cut to the slice; ``rows`` counts within the slice."""
        cut, name = self._cut(relative), self.tensor_name(relative)
        parts: list[tuple[int, int] | None] = [rows] if cut.rows is None else [*_within(cut.rows, rows)]
        pieces = [self._read(name, part) for part in parts]
        value = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        if cut.columns is None:
            return value
        return torch.cat([value[:, begin:end] for begin, end in cut.columns], 1)

    def _read(self, name: str, rows: tuple[int, int] | None) -> Tensor:
        if self.rewrites is None:
            return self._stored(name, rows)
        relative = name.removeprefix(self.tower_prefix if self.tower_of(name) else self.text_prefix)
        return self.rewrites.read(relative, rows, lambda part: self._stored(name, part))

    def _stored(self, name: str, rows: tuple[int, int] | None) -> Tensor:
        value = self.checkpoint.read_tensor(name, rows)
        return value if self.adapter is None else self.adapter(name, rows, value)

    def _cut(self, relative: str) -> Cut:
        """What the slice keeps of a tensor."""
        if self.plan is None or self.tower_of(relative):
            return Cut()
        return self.family.cut(self.text, self.plan.kept, relative)

    def _whole_name(self, relative: str) -> str:
        """The full name of a tensor that is named as in the whole checkpoint."""
        return (self.tower_prefix if self.tower_of(relative) else self.text_prefix) + relative

    def in_whole(self, relative: str) -> str:
        """The name that a tensor or weight of the slice has in the whole checkpoint."""
        match = LAYER.fullmatch(relative)
        return relative if self.plan is None or match is None else f"layers.{self.plan.kept[int(match[1])]}.{match[2]}"


def _within(ranges: Ranges, rows: tuple[int, int] | None) -> Iterator[tuple[int, int]]:
    """The row ranges in the source's ``ranges`` from which rows ``[begin, end)`` of the slice are taken."""
    begin, end = rows or (0, sum(last - first for first, last in ranges))
    at = 0
    for first, last in ranges:
        low, high = max(begin, at), min(end, at + last - first)
        if low < high:
            yield first + low - at, first + high - at
        at += last - first
