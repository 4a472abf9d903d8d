"""The tensors of an adapter's file beside those of the checkpoint that they change."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from g3n_compiler.checkpoint.lora_config import LoraSettings
from g3n_compiler.checkpoint.lora_names import TensorNames, sort_keys
from g3n_compiler.checkpoint.reader import Checkpoint
from g3n_compiler.checkpoint.remark import Remark, no_remark
from g3n_compiler.checkpoint.safetensors import SafetensorsFile
from g3n_compiler.errors import CheckpointError, NotFinite

BLOCK = 1 << 22
"""Values that are compared or checked at a time."""


class AdapterTensors:
    """An adapter's file and settings, and the checkpoint that it is merged into.

    Raises:
        CheckpointError: the file holds several adapters, or a part of one.
    """

    def __init__(
        self,
        settings: LoraSettings,
        file: SafetensorsFile,
        checkpoint: Checkpoint,
        prefixes: Collection[str],
        remark: Remark = no_remark,
    ) -> None:
        self.settings, self.path, self.remark = settings, file.path, remark
        self._file, self._checkpoint = file, checkpoint
        for name, entry in file.entries.items():
            if not entry.shape or 0 in entry.shape or (".lora_" in name and len(entry.shape) < 2):
                raise CheckpointError(
                    f"{self.path}: {name!r} has shape {list(entry.shape)}: the adapter was saved from a sharded model "
                    "(DeepSpeed ZeRO-3 or FSDP) without gathering it. Gather the parameters, and save it again"
                )
        self.keys = sort_keys(file.entries, file.path)
        self.names = TensorNames(checkpoint.entries, prefixes)
        self._renamed: dict[str, str] = {}

    def shape(self, key: str) -> tuple[int, ...]:
        """Of a tensor of the adapter."""
        return self._file.entries[key].shape

    def target_shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor of the checkpoint."""
        return self._checkpoint.entries[name].shape

    def target(self, trained: str, key: str) -> str:
        """The checkpoint's name of the tensor that ``key`` changes, whose name in training was ``trained``."""
        name = self.names.require(trained, key, self.path)
        if name != trained:
            self._renamed[trained] = name
        return name

    def remark_names(self) -> None:
        """Tell how tensors were found that have another name in the checkpoint."""
        if self._renamed:
            trained = min(self._renamed)
            self.remark(
                f"{len(self._renamed)} tensors of the adapter have other names in the checkpoint: "
                f"{trained} is taken as {self._renamed[trained]}, and so on"
            )

    def read(self, key: str) -> Tensor:
        """A tensor of the adapter, float32 and finite."""
        self.require_finite(key)
        return self._file.read(key).float()

    def require_finite(self, key: str) -> None:
        if not all(self._file.read(key, block).isfinite().all() for block in self._blocks(key)):
            raise NotFinite(f"{self.path}: {key!r} holds a NaN or an infinity: the adapter is damaged")

    def equal(self, one: str, other: str) -> bool:
        """Whether two tensors of the adapter have the same values."""
        return self.shape(one) == self.shape(other) and all(
            torch.equal(self._file.read(one, block).float(), self._file.read(other, block).float())
            for block in self._blocks(one)
        )

    def _blocks(self, key: str) -> Iterator[tuple[int, int]]:
        rows = self.shape(key)[0]
        step = max(1, BLOCK * rows // self._file.entries[key].nbytes)
        return ((at, min(at + step, rows)) for at in range(0, rows, step))
