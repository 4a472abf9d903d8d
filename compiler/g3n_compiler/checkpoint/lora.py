"""Merge a PEFT adapter into the weights as they are read, rows at a time, as ``merge_and_unload()`` would.

A matrix becomes ``W + scale * (B @ A)`` in float32, tensors that the adapter saves whole replace the checkpoint's, and
rows of an embedding that were trained alone replace its rows. Source: PEFT's ``LoraLayer.get_delta_weight``,
``ModulesToSaveWrapper`` and ``TrainableTokensLayer``.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from g3n_compiler.checkpoint.fields import present
from g3n_compiler.checkpoint.lora_config import CONFIG
from g3n_compiler.checkpoint.lora_folder import PICKLE, TEXT_FILES, WEIGHTS, adapter_advice, read_settings
from g3n_compiler.checkpoint.lora_pairs import Pair, load_pairs
from g3n_compiler.checkpoint.lora_saved import Rows, find_whole, load_rows
from g3n_compiler.checkpoint.lora_tensors import AdapterTensors
from g3n_compiler.checkpoint.reader import Checkpoint, file_sha256
from g3n_compiler.checkpoint.remark import Remark, no_remark
from g3n_compiler.checkpoint.safetensors import SafetensorsFile
from g3n_compiler.errors import CheckpointError

__all__ = ["CONFIG", "TEXT_FILES", "WEIGHTS", "LoraAdapter", "adapter_advice", "require_adapter"]


def require_adapter(directory: Path) -> None:
    """Raise :class:`CheckpointError` unless the settings of an adapter are in ``directory`` and can be merged."""
    read_settings(directory)


class LoraAdapter:
    """An adapter folder, ready to be merged; :class:`g3n_compiler.source.Source` applies it to each tensor it reads.

    Args:
        prefixes: what savers put before the names of the text model.

    Raises:
        CheckpointError: it is not an adapter, is damaged, or cannot be merged into ``checkpoint`` exactly. Its
            ``target_modules`` and the like are not evaluated: the tensors in the file show what is adapted.
    """

    def __init__(
        self, directory: Path, checkpoint: Checkpoint, prefixes: Collection[str], remark: Remark = no_remark
    ) -> None:
        settings = read_settings(directory)
        self._file = SafetensorsFile(directory / WEIGHTS)
        try:
            tensors = AdapterTensors(settings, self._file, checkpoint, prefixes, remark)
            self.pairs: dict[str, Pair] = load_pairs(tensors)
            self._rows: dict[str, Rows] = load_rows(tensors)
            self._whole: dict[str, str] = find_whole(tensors)
            self.names = frozenset({*self.pairs, *self._rows, *self._whole})
            """Names of the checkpoint's tensors that are changed."""
            if not self.names:
                raise CheckpointError(f"{directory / WEIGHTS} holds no LoRA tensors")
            tensors.remark_names()
            self.sha256 = {name: file_sha256(directory / name) for name in (CONFIG, WEIGHTS)}
        except BaseException:
            self._file.close()
            raise
        if not self._whole:
            self._file.close()
        if present(directory / PICKLE):
            remark(f"{directory} holds both {WEIGHTS} and {PICKLE}: the first is merged, as PEFT would load it")

    def close(self) -> None:
        """Close the adapter's file, from which tensors that it holds whole are read."""
        self._file.close()

    def __call__(self, name: str, rows: tuple[int, int] | None, value: Tensor) -> Tensor:
        if (whole := self._whole.get(name)) is not None:
            value = self._file.read(whole, rows).to(torch.float32)
        begin, end = rows or (0, value.shape[0])
        if (pair := self.pairs.get(name)) is not None:
            # As PEFT computes it: the product is scaled, then added.
            value += ((pair.b[begin:end] @ pair.a) * pair.scale).view(value.shape)
        if (fresh := self._rows.get(name)) is not None:
            inside = (fresh.at >= begin) & (fresh.at < end)
            value[fresh.at[inside] - begin] = fresh.values[inside]
        return value
