"""A folder of safetensors with a ``config.json``: tensors by name, read on demand, for any model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from g3n_compiler.checkpoint.fields import present, read_json
from g3n_compiler.checkpoint.identity import Inputs
from g3n_compiler.checkpoint.safetensors import MAX_HEADER_BYTES, SafetensorsFile, TensorEntry
from g3n_compiler.errors import BadHeader, CheckpointError, MissingShard, UnknownTensor
from g3n_compiler.models.weights import WeightSpec
from g3n_runtime.reading import read_json_object

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
CONFIG = "config.json"
GENERATION = "generation_config.json"
MAX_SHARDS = 512
"""All shards are held open; the published models have at most four."""
READ_BY_NAME = (
    "config.json",
    INDEX,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "chat_template.jinja",
    "processor_config.json",
    "preprocessor_config.json",
    "calibration.json",
)
"""Files of a checkpoint that are read by name, that is, all but the shards."""


class Checkpoint:
    """Lazily read tensors by their full names; every read returns float32."""

    def __init__(self, directory: Path) -> None:
        if not present(directory) or not directory.is_dir():
            raise CheckpointError(f"{directory} is not a folder: expected a Hugging Face checkpoint")
        self.directory = directory
        self.shards = self._open_shards()
        self._owner: dict[str, SafetensorsFile] = {}
        for shard in self.shards:
            for name in shard.entries:
                if name in self._owner:
                    raise BadHeader(f"tensor {name!r} is in both {self._owner[name].path.name} and {shard.path.name}")
                self._owner[name] = shard
        self.entries: Mapping[str, TensorEntry] = MappingProxyType(
            {name: shard.entries[name] for name, shard in self._owner.items()}
        )

    def close(self) -> None:
        for shard in self.shards:
            shard.close()

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        return read_json(self.directory / CONFIG)

    @cached_property
    def generation(self) -> dict[str, Any] | None:
        """The content of ``generation_config.json``, if there is one."""
        path = self.directory / GENERATION
        return read_json(path) if present(path) else None

    def read_tensor(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """A tensor, float32; ``rows`` selects ``[begin, end)`` of its first dimension."""
        return self._owner[name].read(name, rows).to(torch.float32)

    def check_shape(self, name: str, spec: WeightSpec) -> None:
        """Raise :class:`UnknownTensor` unless tensor ``name`` exists with the shape that ``spec`` is cut from."""
        if name not in self._owner:
            raise UnknownTensor(f"tensor {name!r} is not in the checkpoint, but its config.json needs it")
        shape = self.entries[name].shape
        if spec.axes is not None:
            shape = tuple(shape[a] for a in spec.axes) if len(shape) == len(spec.axes) else shape
        elif len(shape) == 4 and len(spec.shape) == 2 and shape[2:] == (1, 1):
            shape = shape[:2]
        fits = shape[1:] == spec.shape[1:] and (shape == spec.shape if spec.rows is None else spec.rows[1] <= shape[0])
        if not fits:
            raise UnknownTensor(f"tensor {name!r} has shape {list(shape)}, config.json implies {list(spec.shape)}")

    def sha256(self) -> dict[str, str]:
        """Hash of each file that decides what is compiled, by file name."""
        hashes = {shard.path.name: shard.sha256() for shard in self.shards}
        hashes["config.json"] = file_sha256(self.directory / "config.json")
        return dict(sorted(hashes.items()))

    def note(self, inputs: Inputs) -> None:
        """Note the opened files, as they were when they were opened; :func:`note_texts` is for files that are read by
        name.
        """
        for shard in self.shards:
            inputs.note_opened(shard.path, shard.identity)

    def _open_shards(self) -> list[SafetensorsFile]:
        index = self.directory / INDEX
        if not present(index):
            if not present(self.directory / SINGLE):
                raise MissingShard(f"neither {INDEX} nor {SINGLE} is in {self.directory}: only safetensors are read")
            return [SafetensorsFile(self.directory / SINGLE)]
        weight_map = read_json_object(index, CheckpointError, MAX_HEADER_BYTES, infinite=True).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
            raise CheckpointError(f"{index} has no weight_map of tensor names to shard names")
        promised: dict[str, set[str]] = {}
        for tensor, name in weight_map.items():
            promised.setdefault(name, set()).add(tensor)
        if len(promised) > MAX_SHARDS:
            raise CheckpointError(f"{index} names {len(promised)} shards, but at most {MAX_SHARDS} are read")
        for name in promised:
            if Path(name).name != name or not name.isprintable():
                raise CheckpointError(f"{index} names the shard {name[:80]!r}, which is not a plain file name")
        shards = [SafetensorsFile(self.directory / name) for name in sorted(promised)]
        for shard in shards:
            if wrong := promised[shard.path.name].symmetric_difference(shard.entries):
                raise BadHeader(
                    f"{index.name} and {shard.path.name} disagree on {len(wrong)} tensors, e.g. {min(wrong)[:200]!r}"
                )
        return shards


def note_texts(directory: Path, inputs: Inputs) -> None:
    """Note all files of a checkpoint's folder that are read by name; call it before any of them is read."""
    inputs.note(directory / name for name in READ_BY_NAME)


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
