"""Merge a PEFT LoRA adapter into the weights while they are read: ``W + scale * B @ A``, rows at a time.

Source: PEFT's ``LoraLayer.get_delta_weight``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from g3n_compiler.checkpoint.config import read_json
from g3n_compiler.checkpoint.reader import Checkpoint, file_sha256
from g3n_compiler.checkpoint.safetensors import SafetensorsFile
from g3n_compiler.errors import CheckpointError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."
UNSUPPORTED = (
    "use_dora",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "trainable_token_indices",
    "fan_in_fan_out",
)


class Pair(NamedTuple):
    """``a [r, K]`` and ``b [N, r]`` of one adapted weight ``[N, K]``, float32."""

    a: Tensor
    b: Tensor


class LoraAdapter:
    """An adapter folder, ready to be merged: set it as :attr:`Checkpoint.update`."""

    def __init__(self, directory: Path, checkpoint: Checkpoint) -> None:
        config = read_json(directory / CONFIG)
        if config.get("peft_type") != "LORA":
            raise CheckpointError(f"{directory / CONFIG} is of type {config.get('peft_type')!r}, expected LORA")
        if refused := [key for key in UNSUPPORTED if config.get(key)]:
            raise CheckpointError(f"{directory / CONFIG} uses {', '.join(refused)}: merge it with PEFT first")
        if config.get("bias", "none") != "none":
            raise CheckpointError(f"{directory / CONFIG} trains biases, which Gemma 3n does not have")
        self.scale = _scale(config, directory)
        self.pairs = _load_pairs(directory / WEIGHTS, checkpoint)
        self.sha256 = {name: file_sha256(directory / name) for name in (CONFIG, WEIGHTS)}

    def __call__(self, name: str, rows: tuple[int, int] | None, value: Tensor) -> Tensor:
        pair = self.pairs.get(name)
        if pair is None:
            return value
        b = pair.b if rows is None else pair.b[rows[0] : rows[1]]
        return value.addmm_(b, pair.a, alpha=self.scale)


def _scale(config: dict[str, object], directory: Path) -> float:
    try:
        rank, alpha = int(config["r"]), float(config["lora_alpha"])  # type: ignore[call-overload, arg-type]
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{directory / CONFIG} has no usable r and lora_alpha") from None
    if rank < 1:
        raise CheckpointError(f"{directory / CONFIG} has rank {rank}, expected at least 1")
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _load_pairs(path: Path, checkpoint: Checkpoint) -> dict[str, Pair]:
    file = SafetensorsFile(path)
    entries = checkpoint.entries
    pairs: dict[str, Pair] = {}
    left = set(file.entries)
    for key in sorted(file.entries):
        if not key.endswith(".lora_A.weight"):
            continue
        other = key.replace(".lora_A.", ".lora_B.")
        target = key.removeprefix(PEFT_PREFIX).replace(".lora_A.weight", ".weight")
        if other not in file.entries or target not in entries:
            raise CheckpointError(f"{path}: {key!r} has no partner or adapts no tensor of the checkpoint ({target!r})")
        pair = Pair(file.read(key).float(), file.read(other).float())
        shape = entries[target].shape
        if (
            pair.a.dim() != 2
            or pair.b.dim() != 2
            or (pair.b.shape[0], pair.a.shape[1]) != shape
            or pair.b.shape[1] != pair.a.shape[0]
        ):
            raise CheckpointError(
                f"{path}: {key!r} {list(pair.a.shape)} and B {list(pair.b.shape)} do not fit {target!r} {list(shape)}"
            )
        pairs[target] = pair
        left -= {key, other}
    file.close()
    if left or not pairs:
        raise CheckpointError(
            f"{path} holds {'tensors that are not LoRA, e.g. ' + min(left) if left else 'no LoRA tensors'}"
        )
    return pairs
