"""What an adapter stores as it is, beside its pairs: rows of an embedding, and whole tensors.

Source: PEFT's ``TrainableTokensLayer``, ``ModulesToSaveWrapper``, ``_set_trainable`` and ``save_embedding_layers``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from g3n_compiler.checkpoint.lora_config import CONFIG, MERGE
from g3n_compiler.checkpoint.lora_names import HEAD, is_head
from g3n_compiler.checkpoint.lora_tensors import AdapterTensors
from g3n_compiler.errors import CheckpointError

ONE_TENSOR = "the same tensor in a Gemma 3n"


class Rows(NamedTuple):
    """New values of some rows of an embedding."""

    at: Tensor
    values: Tensor


def load_rows(tensors: AdapterTensors) -> dict[str, Rows]:
    """Rows that were trained alone (``trainable_token_indices``), by the name of the checkpoint's tensor."""
    settings, found, used = tensors.settings, dict[str, Rows](), set[str | None]()
    for module, key in tensors.keys.tokens.items():
        if is_head(module):
            raise CheckpointError(
                f"{tensors.path}: {key!r} holds rows of lm_head apart from those of embed_tokens, which is "
                f"{ONE_TENSOR}: train the same tokens of both (trainable_token_indices)"
            )
        target = tensors.target(f"{module}.weight", key)
        options = [
            name
            for name in settings.tokens
            if (target == tensors.names.embedding if name is None else module.endswith(name))
        ]
        at = settings.tokens[options[0]] if len(options) == 1 else ()
        shape, table = tensors.shape(key), tensors.target_shape(target)
        if len(table) != 2 or shape != (len(at), table[1]) or max(at, default=0) >= table[0]:
            raise CheckpointError(
                f"{tensors.path}: {key!r} {list(shape)} and the {len(at)} trainable_token_indices of {CONFIG} do not "
                f"fit {target!r} {list(table)}: pass the checkpoint that the adapter was trained on"
            )
        used.update(options)
        found[target] = Rows(torch.tensor(at), tensors.read(key))
    for name, at in settings.tokens.items():
        # The head follows the table, and has no rows in the file, if it was given the same tokens.
        follows = name is not None and is_head(name) and at in (settings.tokens[other] for other in used)
        if name not in used and not follows:
            raise CheckpointError(
                f"{settings.path} has trainable_token_indices of {name or 'the input embedding'}, but "
                f"{tensors.path.name} holds no rows of it: the file is incomplete, save it again"
            )
    return found


def find_whole(tensors: AdapterTensors) -> dict[str, str]:
    """Tensors that replace the checkpoint's (``modules_to_save``, and the token table that PEFT adds by itself): names
    in the adapter's file, by the checkpoint's name.
    """
    found, heads, strangers = dict[str, str](), list[str](), list[str]()
    for trained, key in tensors.keys.whole.items():
        module = trained.rpartition(".")[0]
        if is_head(module):
            heads.append(key)
        elif _ends(trained, tensors.settings.saved) or tensors.names.find(trained) == tensors.names.embedding:
            target = tensors.target(trained, key)
            _require_shape(tensors, key, target)
            if target in found:
                raise CheckpointError(f"{tensors.path}: {key!r} and {found[target]!r} both replace {target!r}")
            found[target] = key
        else:
            strangers.append(key)
    if strangers:
        raise CheckpointError(
            f"{tensors.path} holds tensors that are not LoRA, e.g. {min(strangers)!r}, and that modules_to_save does "
            f"not name: {MERGE}"
        )
    _check_head(tensors, found.get(tensors.names.embedding), heads)
    _check_complete(tensors, found)
    for key in found.values():
        tensors.require_finite(key)
    if found:
        tensors.remark(f"{len(found)} tensors are taken from the adapter, not the checkpoint, e.g. {min(found)}")
    return found


def _ends(tensor: str, ends: tuple[str, ...]) -> bool:
    """Whether a tensor is in a module whose name has one of these ends; PEFT pays no regard to dots."""
    parts = tensor.split(".")[:-1]
    return any(".".join(parts[:n]).endswith(ends) for n in range(1, len(parts) + 1))


def _require_shape(tensors: AdapterTensors, key: str, target: str) -> None:
    shape, here = tensors.shape(key), tensors.target_shape(target)
    if shape != here:
        resized = ", whose vocabulary was not resized" if shape[1:] == here[1:] else ""
        raise CheckpointError(
            f"{tensors.path}: {key!r} {list(shape)} does not fit {target!r} {list(here)}{resized}: pass the checkpoint "
            "that the adapter was trained on"
        )


def _check_head(tensors: AdapterTensors, table: str | None, heads: list[str]) -> None:
    """What the adapter makes of the token table it must make of the head, which is the same tensor."""
    advice = "train with embed_tokens in modules_to_save and ensure_weight_tying=True"
    if table is None:
        if heads:
            raise CheckpointError(
                f"{tensors.path}: {heads[0]!r} is a head apart from embed_tokens, which is {ONE_TENSOR}: {advice}"
            )
        return
    if not heads and _ends(tensors.names.embedding, tensors.settings.saved):
        raise CheckpointError(
            f"{tensors.path}: {table!r} is in modules_to_save and lm_head is not, which is {ONE_TENSOR}: PEFT's merge "
            f"leaves two of them, {advice}"
        )
    for head in heads:
        if not tensors.equal(table, head):
            raise CheckpointError(f"{tensors.path}: {table!r} and {head!r} differ, but are {ONE_TENSOR}: {advice}")


def _check_complete(tensors: AdapterTensors, found: dict[str, str]) -> None:
    """Each of ``modules_to_save`` that the model has must be there: PEFT loads no other file."""
    here = [*tensors.keys.whole, *found]
    for end in tensors.settings.saved:
        if any(_ends(name, (end,)) for name in here):
            continue
        if HEAD.endswith(end) or any(_ends(name, (end,)) for name in tensors.names.text):
            raise CheckpointError(
                f"{tensors.settings.path} has {end[:80]!r} in modules_to_save, but {tensors.path.name} does not hold "
                "it: the file is incomplete, save it again"
            )
        tensors.remark(f"{end[:80]!r} in modules_to_save names nothing in the model, and is ignored")
