"""Merge a PEFT LoRA adapter into the weights as they are read: ``W + scale * B @ A``, rows at a time.

Source: PEFT's ``LoraLayer.get_delta_weight``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from g3n_compiler.checkpoint.reader import Checkpoint, file_sha256
from g3n_compiler.checkpoint.safetensors import SafetensorsFile
from g3n_compiler.errors import CheckpointError, NotFinite
from g3n_runtime.reading import open_regular, read_json_object

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."
MAX_CONFIG_BYTES = 1 << 20
MAX_RANK = 1 << 20
"""More than any matrix has rows."""
LARGEST_SCALE = 1e4
"""Limit of the factor on what is added to a weight. Published ones are 0.5 to 64; far beyond it float32 overflows."""
KNOWN = frozenset({
    "auto_mapping", "base_model_name_or_path", "bias", "ensure_weight_tying", "eva_config", "exclude_modules",
    "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout",
    "megatron_config", "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r", "revision",
    "runtime_config", "target_modules", "task_type", "use_rslora",
})  # fmt: skip
"""Settings that do not change how an adapter is merged here. PEFT keeps adding settings; any other that is set is
refused."""
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of ``init_lora_weights`` for which training started from the checkpoint's own weights."""


class Pair(NamedTuple):
    """``a [r, K]`` and ``b [N, r]`` of one adapted weight ``[N, K]``, float32."""

    a: Tensor
    b: Tensor


def require_adapter(directory: Path) -> None:
    """Raise :class:`CheckpointError` unless there is an adapter's configuration in ``directory``."""
    open_regular(directory / CONFIG, CheckpointError).close()


class LoraAdapter:
    """An adapter folder, ready to be merged; :class:`g3n_compiler.source.Source` applies it to each tensor it reads.

    Raises:
        CheckpointError: it is not an adapter, is damaged, or cannot be merged into ``checkpoint`` exactly. Its
            patterns, such as ``target_modules``, are not evaluated: the tensors in the file show what is adapted.
    """

    def __init__(self, directory: Path, checkpoint: Checkpoint) -> None:
        path = directory / CONFIG
        config = read_json_object(path, CheckpointError, MAX_CONFIG_BYTES)
        if (kind := config.get("peft_type")) != "LORA":
            raise CheckpointError(f"{path} is of type {str(kind)[:40]!r}, expected LORA")
        if refused := sorted(key for key, value in config.items() if value and key not in KNOWN):
            raise CheckpointError(f"{path} uses {', '.join(refused)[:200]}: merge it with PEFT first")
        if (start := config.get("init_lora_weights")) not in PLAIN_STARTS:
            raise CheckpointError(
                f"{path} was trained from weights that {str(start)[:40]!r} had changed: merge it with PEFT first"
            )
        if config.get("bias", "none") != "none":
            raise CheckpointError(f"{directory / CONFIG} trains biases, which Gemma 3n does not have")
        rank, self.scale = _rank_and_scale(config, directory)
        self.pairs = _load_pairs(directory / WEIGHTS, checkpoint, rank)
        self.sha256 = {name: file_sha256(directory / name) for name in (CONFIG, WEIGHTS)}

    def __call__(self, name: str, rows: tuple[int, int] | None, value: Tensor) -> Tensor:
        pair = self.pairs.get(name)
        if pair is None:
            return value
        b = pair.b if rows is None else pair.b[rows[0] : rows[1]]
        return value.addmm_(b, pair.a, alpha=self.scale)


def _rank_and_scale(config: dict[str, object], directory: Path) -> tuple[int, float]:
    rank, alpha, rslora = config.get("r"), config.get("lora_alpha"), config.get("use_rslora", False)
    if type(rank) is not int or type(alpha) not in (int, float):
        raise CheckpointError(f"{directory / CONFIG} has no usable r and lora_alpha, expected two numbers")
    if type(rslora) is not bool:
        raise CheckpointError(f"{directory / CONFIG} has no usable use_rslora, expected true or false")
    if not 1 <= rank <= MAX_RANK:
        raise CheckpointError(f"{directory / CONFIG} has rank {_shown(rank)}, expected 1 to {MAX_RANK}")
    assert isinstance(alpha, int | float)
    # Compared before dividing: an integer may be larger than any float.
    if abs(alpha) > LARGEST_SCALE * rank:
        raise CheckpointError(
            f"{directory / CONFIG} has lora_alpha {_shown(alpha)} for rank {rank}, expected at most "
            f"{LARGEST_SCALE:g} times the rank"
        )
    return rank, alpha / math.sqrt(rank) if rslora else alpha / rank


def _shown(number: float) -> str:
    """A number of any size in a message."""
    text = str(number)
    return text if len(text) <= 20 else f"{text[:17]}..."


def _load_pairs(path: Path, checkpoint: Checkpoint, rank: int) -> dict[str, Pair]:
    """The pairs in a file, each of which has ``rank``; shapes are compared before anything is read."""
    file = SafetensorsFile(path)
    try:
        names = _names(file, checkpoint, rank)
        return {target: _pair(file, a, b) for target, (a, b) in names.items()}
    finally:
        file.close()


def _names(file: SafetensorsFile, checkpoint: Checkpoint, rank: int) -> dict[str, tuple[str, str]]:
    """The names of A and B, by the name of the tensor that they adapt."""
    path, entries, found = file.path, checkpoint.entries, dict[str, tuple[str, str]]()
    left = set(file.entries)
    for key in sorted(file.entries):
        if not key.endswith(".lora_A.weight"):
            continue
        other = key.removesuffix(".lora_A.weight") + ".lora_B.weight"
        target = key.removeprefix(PEFT_PREFIX).removesuffix(".lora_A.weight") + ".weight"
        if other not in file.entries or target not in entries:
            raise CheckpointError(f"{path}: {key!r} has no partner or adapts no tensor of the checkpoint ({target!r})")
        if target in found:
            raise CheckpointError(f"{path}: {key!r} and {found[target][0]!r} both adapt {target!r}")
        a, b, shape = file.entries[key].shape, file.entries[other].shape, entries[target].shape
        if len(a) != 2 or len(b) != 2 or (b[0], a[1]) != shape or b[1] != a[0]:
            raise CheckpointError(f"{path}: {key!r} {list(a)} and B {list(b)} do not fit {target!r} {list(shape)}")
        if a[0] != rank:
            raise CheckpointError(f"{path}: {key!r} has rank {a[0]}, but {CONFIG} says r {rank}, which scales it")
        found[target] = key, other
        left -= {key, other}
    if left or not found:
        raise CheckpointError(
            f"{path} holds {'tensors that are not LoRA, e.g. ' + min(left) if left else 'no LoRA tensors'}"
        )
    return found


def _pair(file: SafetensorsFile, a: str, b: str) -> Pair:
    pair = Pair(file.read(a).float(), file.read(b).float())
    for name, value in zip((a, b), pair, strict=True):
        if not value.isfinite().all():
            raise NotFinite(f"{file.path}: {name!r} holds a NaN or an infinity: the adapter is damaged")
    return pair
