"""The pairs A and B of an adapter, each with its scale and the tensor that it adapts.

Source: PEFT's ``LoraLayer.get_delta_weight`` for linear layers, embeddings, convolutions and parameters.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from g3n_compiler.checkpoint.lora_config import CONFIG, MERGE
from g3n_compiler.checkpoint.lora_names import is_current, is_head
from g3n_compiler.checkpoint.lora_tensors import AdapterTensors
from g3n_compiler.errors import CheckpointError


class Pair(NamedTuple):
    """``a [r, K]`` and ``b [N, r]`` of one adapted weight of N rows with K values each, float32."""

    a: Tensor
    b: Tensor
    scale: float


def load_pairs(tensors: AdapterTensors) -> dict[str, Pair]:
    """The pairs by the name of the checkpoint's tensor; shapes are compared before anything is read."""
    keys, found = tensors.keys, dict[str, Pair]()
    modules = [(m, parts, False) for m, parts in keys.linear.items()]
    modules += [(m, parts, True) for m, parts in keys.table.items()]
    for module, parts, is_table in modules:
        key = min(parts.values())
        if len(parts) != 2:
            raise CheckpointError(f"{tensors.path}: {key!r} has no partner: the file is incomplete, save it again")
        _require_apart_from_head(tensors, module, key)
        target = _target(tensors, module, key)
        if target in found:
            raise CheckpointError(f"{tensors.path}: {key!r} and another tensor both adapt {target!r}")
        found[target] = _pair(tensors, module, parts, target, is_table)
    return found


def _require_apart_from_head(tensors: AdapterTensors, module: str, key: str) -> None:
    """Refuse what PEFT itself merges into another model than was trained, since table and head are one tensor."""
    if not is_head(module) and tensors.names.find(f"{module}.weight") != tensors.names.embedding:
        return
    if any(is_head(m) for m in tensors.keys.linear) and len(tensors.keys.table) > 0:
        what = "adapts embed_tokens and lm_head, which are one tensor in a Gemma 3n: PEFT's merge would add both to it"
    else:
        one, other = ("lm_head", "embed_tokens") if is_head(module) else ("embed_tokens", "lm_head")
        what = f"adapts {one} but not {other}, which is the same tensor in a Gemma 3n: PEFT's merge would change both"
    raise CheckpointError(
        f"{tensors.path}: {key!r} {what}, and the merged model would not be the trained one. Train without them, with "
        "trainable_token_indices, or with embed_tokens in modules_to_save and ensure_weight_tying=True"
    )


def _target(tensors: AdapterTensors, module: str, key: str) -> str:
    settings = tensors.settings
    if module.endswith(".base_layer"):
        raise CheckpointError(f"{tensors.path}: {key!r} is one of two adapters of one layer: {MERGE}")
    name = tensors.target(f"{module}.weight", key)
    # PEFT matches the name in training. A file whose names were changed later may not have had its patterns changed.
    if not is_current(f"{module}.weight", name) and (settings.ranks or settings.alphas):
        today = name.removesuffix(".weight")
        if settings.rank_and_alpha(today) != settings.rank_and_alpha(module):
            raise CheckpointError(
                f"{settings.path}: rank_pattern and alpha_pattern give {module!r} other values than {today!r}, its "
                f"name in the checkpoint: {MERGE}"
            )
    return name


def _pair(tensors: AdapterTensors, module: str, parts: dict[str, str], target: str, is_table: bool) -> Pair:
    settings, key = tensors.settings, parts["A"]
    first, second, shape = tensors.shape(key), tensors.shape(parts["B"]), tensors.target_shape(target)
    # PEFT keeps the pair of an embedding as that of its transpose; B of a convolution has a kernel of ones.
    expected = (shape[:1], shape[1:]) if is_table else (shape[1:], shape[:1])
    ones = (1,) * (len(second) - 2)
    if len(first) == len(shape) > 2 and first[2:] == shape[2:] and first[1] != shape[1]:
        raise CheckpointError(
            f"{tensors.path}: {key!r} adapts {target!r}, a convolution in groups, which PEFT cannot merge either: "
            "train without it"
        )
    if len(shape) < 2 or second[1:] != (first[0], *ones) or (first[1:], second[:1]) != expected:
        raise CheckpointError(
            f"{tensors.path}: {key!r} {list(first)} and B {list(second)} do not fit {target!r} {list(shape)}: pass the "
            "checkpoint that the adapter was trained on"
        )
    rank, alpha = settings.rank_and_alpha(module)
    scale = settings.scale(rank, alpha)
    if first[0] != rank:
        raise CheckpointError(
            f"{tensors.path}: {key!r} has rank {first[0]}, but {CONFIG} says {rank}, which scales it: take both files "
            "from one adapter"
        )
    a, b = (tensors.read(parts[part]).flatten(1) for part in "AB")
    return Pair(b.T.contiguous(), a.T.contiguous(), scale) if is_table else Pair(a, b, scale)
