"""Write a calibrated checkpoint: a copy of the first, in which rewritten and rounded tensors are replaced."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors.torch import load_file
from torch import Tensor

from g3n_compiler.checkpoint.reader import READ_BY_NAME
from g3n_compiler.errors import TargetError
from g3n_compiler.source import Source

BLOCK_VALUES = 1 << 24
"""Values that are rewritten at a time."""


def write_calibrated(source: Source, rounded: Mapping[str, Path], folder: Path) -> None:
    """Copy the checkpoint's files to ``folder`` and replace what was rewritten or rounded.

    Args:
        source: the checkpoint with its rewrites.
        rounded: files with rounded matrices as ``weight``, by the tensor's name within the text model.

    Raises:
        TargetError: a tensor's format cannot hold what it becomes.
    """
    index = source.checkpoint.files.index_file
    for name in {*READ_BY_NAME, *([] if index is None else [index.name])}:
        if (source.directory / name).is_file():
            shutil.copyfile(source.directory / name, folder / name)
    rewritten = () if source.rewrites is None else source.rewrites.tensors.keys()
    stored = source.checkpoint.stored_name
    replaced = {stored(source.tensor_name(relative)): relative for relative in {*rewritten, *rounded}}
    for shard in source.checkpoint.shards:
        copy = folder / shard.path.name
        shutil.copyfile(shard.path, copy)
        with copy.open("r+b") as file:
            for name in sorted(shard.entries.keys() & replaced.keys()):
                relative, entry = replaced[name], shard.entries[name]
                own = rounded.get(relative)
                blocks = _rewritten(source, relative, entry.shape) if own is None else iter([load_file(own)["weight"]])
                _overwrite(file, name, entry.offset, entry.nbytes, blocks)


def _overwrite(file: BinaryIO, name: str, offset: int, nbytes: int, blocks: Iterator[Tensor]) -> None:
    file.seek(offset)
    written = sum(file.write(block.contiguous().view(torch.uint8).numpy().data) for block in blocks)
    if written != nbytes:
        raise AssertionError(f"{name} has {written} bytes now, {nbytes} in its shard")


def _rewritten(source: Source, relative: str, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Rows of a rewritten tensor in the checkpoint's own format, which must hold them to the last bit."""
    dtype, step = source.dtype(relative), max(1, BLOCK_VALUES // torch.Size(shape[1:]).numel())
    for begin in range(0, shape[0], step):
        value = source.read_relative(relative, (begin, min(begin + step, shape[0])))
        block = value.to(dtype)
        if not torch.equal(block.float(), value):
            raise TargetError(f"{relative} as {dtype} cannot hold its rewritten values exactly: store it as float32")
        yield block
