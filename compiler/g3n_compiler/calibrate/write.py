"""Write a calibrated checkpoint: the tensors of the first, of which some are cut, rewritten, merged or rounded."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from g3n_compiler.checkpoint.reader import CONFIG, READ_BY_NAME
from g3n_compiler.checkpoint.safetensors import DTYPES, SafetensorsFile, TensorEntry
from g3n_compiler.models.weights import WeightSpec
from g3n_compiler.source import Source

BLOCK_VALUES = 1 << 24
"""Values that are in memory at a time, of tensors that are not rounded."""
KINDS = {dtype: kind for kind, dtype in DTYPES.items()}
Rounded = Mapping[str, Mapping[Path, WeightSpec]]
"""By the name of a tensor within the text model: files with its parts, rounded, each as ``weight``."""


@dataclass(frozen=True)
class Written:
    """A tensor of the new checkpoint."""

    name: str
    dtype: torch.dtype | None
    """``None``: its bytes are those of ``entry``."""
    shape: tuple[int, ...]
    entry: TensorEntry
    relative: str
    """Its name in the source, where that is not just copied."""

    @property
    def kind(self) -> str:
        return self.entry.kind if self.dtype is None else KINDS[self.dtype]

    @property
    def nbytes(self) -> int:
        return self.entry.nbytes if self.dtype is None else math.prod(self.shape) * self.dtype.itemsize


def write_calibrated(source: Source, rounded: Rounded, folder: Path) -> None:
    """Write ``source`` to ``folder``, as it is seen through its slice, its adapter and its rewrites.

    Tensors keep their names, but layers are numbered anew, and their formats unless these cannot hold what a tensor
    becomes: then it is float32. A slice has a ``config.json`` of its own.
    """
    index, checkpoint = source.checkpoint.files.index_file, source.checkpoint
    for name in set(READ_BY_NAME) - {CONFIG}:
        if (source.directory / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source.directory / name, folder / name)
    if source.plan is None:
        shutil.copyfile(source.directory / CONFIG, folder / CONFIG)
    else:
        config = source.family.sliced_config(checkpoint.config, source.text)
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    places: dict[str, str] = {}
    total = 0
    for shard in checkpoint.shards:
        tensors = list(_tensors(source, shard, rounded))
        if tensors:
            _write_shard(source, shard, tensors, rounded, folder / shard.path.name)
        places |= {tensor.name: shard.path.name for tensor in tensors}
        total += sum(tensor.nbytes for tensor in tensors)
    if index is not None:
        listed = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (folder / index.name).write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")


def _tensors(source: Source, shard: SafetensorsFile, rounded: Rounded) -> Iterator[Written]:
    """What becomes of each tensor of a shard, in their order; those that nothing reads are left out."""
    names, rewrites = source.checkpoint.used_names(shard), source.rewrites
    merged = frozenset[str]() if source.adapter is None else source.adapter.names
    for entry in sorted(shard.entries.values(), key=lambda entry: entry.offset):
        if (used := names.get(entry.name)) is None:
            continue
        tower = source.tower_of(used) is not None
        prefix = source.tower_prefix if tower else source.text_prefix
        if not used.startswith(prefix):
            yield Written(entry.name, None, entry.shape, entry, "")
            continue
        whole = used.removeprefix(prefix)
        relative = whole if tower else source.name_in_slice(whole)
        if relative is None:
            continue
        name = entry.name if relative == whole else entry.name.removesuffix(whole) + relative
        shape = source.shape_of(relative)
        if relative in rounded:
            dtype = max((load_file(path)["weight"].dtype for path in rounded[relative]), key=lambda own: own.itemsize)
            yield Written(name, dtype, shape, entry, relative)
        elif shape != entry.shape or used in merged or (rewrites is not None and whole in rewrites.tensors):
            held = all(torch.equal(block.to(entry.dtype).float(), block) for block in _blocks(source, relative, shape))
            yield Written(name, entry.dtype if held else torch.float32, shape, entry, relative)
        else:
            yield Written(name, None, shape, entry, relative)


def _write_shard(source: Source, shard: SafetensorsFile, tensors: list[Written], rounded: Rounded, path: Path) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in tensors:
        offsets = [at, at := at + tensor.nbytes]
        header[tensor.name] = {"dtype": tensor.kind, "shape": tensor.shape, "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            begin = file.tell()
            for block in _bytes(source, shard, tensor, rounded):
                file.write(block)
            if (written := file.tell() - begin) != tensor.nbytes:
                raise AssertionError(f"{tensor.name} has {written} bytes, {tensor.nbytes} in the header")


def _bytes(source: Source, shard: SafetensorsFile, tensor: Written, rounded: Rounded) -> Iterator[memoryview]:
    if tensor.dtype is None:
        size = BLOCK_VALUES
        for begin in range(0, tensor.nbytes, size):
            view = memoryview(bytearray(min(size, tensor.nbytes - begin)))
            shard.fill(view, tensor.entry.offset + begin)
            yield view
        return
    parts = rounded.get(tensor.relative)
    blocks = _blocks(source, tensor.relative, tensor.shape) if parts is None else iter([_joined(parts, tensor)])
    for block in blocks:
        yield block.to(tensor.dtype).contiguous().view(-1).view(torch.uint8).numpy().data


def _joined(parts: Mapping[Path, WeightSpec], tensor: Written) -> Tensor:
    """A tensor whose parts were rounded one by one."""
    whole = torch.full(tensor.shape, torch.nan, dtype=tensor.dtype)
    for path, spec in parts.items():
        rows = slice(None) if spec.rows is None else slice(*spec.rows)
        (columns,) = [slice(None)] if spec.columns is None else [slice(*own) for own in spec.columns]
        whole[rows, columns] = load_file(path)["weight"].to(tensor.dtype)
    if whole.isnan().any():
        raise AssertionError(f"only parts of {tensor.name} were rounded")
    return whole


def _blocks(source: Source, relative: str, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """The rows of a tensor, float32, some at a time."""
    step = max(1, BLOCK_VALUES // max(1, math.prod(shape[1:])))
    for begin in range(0, shape[0], step):
        yield source.read_relative(relative, (begin, min(begin + step, shape[0])))
