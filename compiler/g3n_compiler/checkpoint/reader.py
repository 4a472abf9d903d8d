"""A folder of safetensors with a ``config.json``: tensors by name, read on demand, for any model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from g3n_compiler.checkpoint.fields import present, read_json
from g3n_compiler.checkpoint.identity import Inputs
from g3n_compiler.checkpoint.lfs import is_lfs_pointer
from g3n_compiler.checkpoint.quantised import refuse_quantised
from g3n_compiler.checkpoint.remark import Remark, no_remark
from g3n_compiler.checkpoint.safetensors import SafetensorsFile, TensorEntry, pointer_message
from g3n_compiler.checkpoint.survey import survey
from g3n_compiler.checkpoint.tensor_names import Names, refuse_wrapped
from g3n_compiler.checkpoint.weight_files import CONFIG, INDEX, SINGLE, WeightFiles, find_weight_files
from g3n_compiler.errors import CheckpointError, UnknownTensor
from g3n_compiler.models.weights import WeightSpec
from g3n_runtime.reading import open_regular

__all__ = ["CONFIG", "GENERATION", "INDEX", "READ_BY_NAME", "SINGLE", "Checkpoint", "file_sha256", "note_texts"]

GENERATION = "generation_config.json"
READ_BY_NAME = (
    "config.json",
    INDEX,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/default.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "processor_config.json",
    "preprocessor_config.json",
    "calibration.json",
)
"""Files of a checkpoint that are read by name, that is, all but the shards."""


class Checkpoint:
    """Lazily read tensors by their full names; every read returns float32."""

    def __init__(self, directory: Path, remark: Remark = no_remark) -> None:
        if not present(directory) or not directory.is_dir():
            raise CheckpointError(f"{directory} is not a folder: expected a Hugging Face checkpoint")
        self.directory = directory
        refuse_pointers(directory / name for name in READ_BY_NAME)
        config = self.config if present(directory / CONFIG) else {}
        self.files = find_weight_files(directory, config, remark)
        self.shards: list[SafetensorsFile] = []
        try:
            for path in self.files.paths:
                self.shards.append(SafetensorsFile(path))
            self._places = _places(self.shards, self.files, remark)
            self.aside: Mapping[str, str] = {}
            """Stored names of which another one gives the same tensor, with the reason."""
            refuse_quantised(self.entries, config, remark)
            refuse_wrapped(self.entries)
        except BaseException:
            self.close()
            raise

    @cached_property
    def entries(self) -> Mapping[str, TensorEntry]:
        """Where each tensor is, by the name that is used."""
        return MappingProxyType({name: shard.entries[stored] for name, (shard, stored) in self._places.items()})

    def renamed(self, names: Names) -> Checkpoint:
        """The same open files, their tensors called as ``names`` says."""
        other = copy(self)
        other.__dict__.pop("entries", None)
        other._places = {name: self._places[stored] for name, stored in names.stored.items()}
        other.aside = names.aside
        return other

    def stored_name(self, name: str) -> str:
        """What a tensor is called in its file."""
        return self._places[name][1]

    def used_names(self, shard: SafetensorsFile) -> dict[str, str]:
        """By what is stored in ``shard``, the names that are used; those of which another one is read are not in it."""
        return {stored: name for name, (own, stored) in self._places.items() if own is shard}

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
        shard, stored = self._places[name]
        return shard.read(stored, rows).to(torch.float32)

    def check_shape(self, name: str, spec: WeightSpec) -> None:
        """Raise :class:`UnknownTensor` unless tensor ``name`` exists with the shape that ``spec`` is cut from."""
        if name not in self.entries:
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

    def survey(
        self, needed: Collection[str], progress: Callable[[str], None] | None = None, remark: Remark = no_remark
    ) -> dict[str, str]:
        """Read all weights once: the hashes of :meth:`sha256`, and the tensors that hold a NaN or an infinity.

        Args:
            needed: the tensors that are compiled, which must be finite.
            progress: called every few seconds with how far the reading is.

        Raises:
            NotFinite: one of ``needed`` holds a NaN or an infinity.
        """
        places = {(shard.path, stored): name for name, (shard, stored) in self._places.items()}
        needed = frozenset(needed)
        hashes, strange = dict[str, str](), list[str]()
        for shard in self.shards:
            wanted = {stored for stored in shard.entries if places.get((shard.path, stored)) in needed}
            found = survey(shard, wanted, progress)
            hashes[shard.path.name] = found.sha256
            strange += [places[shard.path, n] for n in found.not_finite if (shard.path, n) in places]
        if strange:
            remark(f"tensors that nothing reads hold NaN or infinity ({len(strange)}, e.g. {min(strange)!r})")
        hashes[CONFIG] = file_sha256(self.directory / CONFIG)
        return dict(sorted(hashes.items()))

    def note(self, inputs: Inputs) -> None:
        """Note the opened files, as they were when they were opened; :func:`note_texts` is for files that are read by
        name.
        """
        for shard in self.shards:
            inputs.note_opened(shard.path, shard.identity)
        if self.files.index_file is not None:
            inputs.note([self.files.index_file])


def note_texts(directory: Path, inputs: Inputs) -> None:
    """Note all files of a checkpoint's folder that are read by name; call it before any of them is read."""
    inputs.note(directory / name for name in READ_BY_NAME)


def refuse_pointers(paths: Iterable[Path]) -> None:
    """Raise :class:`CheckpointError` if one of the files that exist is a git-lfs pointer."""
    for path in paths:
        if path.is_file():
            with open_regular(path, CheckpointError) as file:
                if is_lfs_pointer(file.read(64)):
                    raise CheckpointError(pointer_message(path))


def _places(
    shards: Sequence[SafetensorsFile], files: WeightFiles, remark: Remark
) -> dict[str, tuple[SafetensorsFile, str]]:
    """The file and the stored name of each tensor: all that the shards hold, whatever their index says."""
    places: dict[str, tuple[SafetensorsFile, str]] = {}
    for shard in shards:
        for name in shard.entries:
            if name in places:
                first, second = places[name][0].path.name, shard.path.name
                remark(f"tensor {name!r} is in {first} and in {second}: the second is read, as transformers does")
            places[name] = shard, name
    if files.index_file is not None:
        index = files.index_file.name
        if absent := sorted(files.promised.keys() - places.keys()):
            remark(f"{index} lists tensors that no shard holds ({len(absent)}, e.g. {absent[0][:200]!r})")
        if extra := sorted(places.keys() - files.promised.keys()):
            remark(
                f"{index} does not list tensors that its shards hold ({len(extra)}, e.g. {extra[0]!r}): they are read"
            )
    return places


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
