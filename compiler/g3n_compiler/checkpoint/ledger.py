"""Account for every tensor of a checkpoint: used, dead (with the reason), left out on request, or unknown (an error).

Exporters that drop what they do not recognise ship towers silently missing; here that is impossible.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch

from g3n_compiler.checkpoint.multimodal import Modality, Tower
from g3n_compiler.checkpoint.reader import Checkpoint
from g3n_compiler.errors import TargetError, UnknownTensor
from g3n_compiler.modules.audio_weights import audio_tensors
from g3n_compiler.modules.vision_weights import vision_weights
from g3n_compiler.modules.weights import WeightSpec, embedding_weights, text_weights

BLOCK_ROWS = 8192


def _vision(checkpoint: Checkpoint) -> Mapping[str, WeightSpec]:
    assert checkpoint.vision is not None
    return vision_weights(checkpoint.vision, checkpoint.text.hidden_size)


def _audio(checkpoint: Checkpoint) -> Mapping[str, WeightSpec]:
    assert checkpoint.audio is not None
    return audio_tensors(checkpoint.audio)


TOWER_WEIGHTS: dict[Tower, Callable[[Checkpoint], Mapping[str, WeightSpec]]] = {"vision": _vision, "audio": _audio}
"""The towers that this version compiles, and all tensors of each."""


@dataclass(frozen=True)
class Ledger:
    """Full tensor names; ``dead`` and ``left_out`` give the reason. ``modalities`` are those that are compiled."""

    modalities: tuple[Modality, ...]
    used: tuple[str, ...]
    dead: dict[str, str]
    left_out: dict[str, str]


def account(checkpoint: Checkpoint, modalities: Collection[str]) -> Ledger:
    """Classify every tensor, checking shapes on the way.

    Raises:
        UnknownTensor: a tensor that is needed is missing or misshapen, or one is there that nothing explains.
        TargetError: the checkpoint has towers that ``modalities`` asks for and this version cannot compile.
    """
    config, prefix = checkpoint.text, checkpoint.text_prefix
    towers = tuple(t for t in checkpoint.towers if t in modalities)
    if refused := [t for t in towers if t not in TOWER_WEIGHTS]:
        keep = ",".join(m for m in modalities if m not in refused)
        raise TargetError(
            f"the checkpoint has a {refused[0]} tower, which this version cannot compile yet: "
            f"pass --modalities {keep} to leave it out"
        )
    specs = [*text_weights(config).values(), *embedding_weights(config).values()]
    for tower in towers:
        specs += TOWER_WEIGHTS[tower](checkpoint).values()
    for spec in specs:
        checkpoint.check_shape(spec)
    used = {checkpoint.tensor_name(s.tensor) for s in specs}
    dead = {prefix + name: why for name, why in checkpoint.dead_tensors().items()}
    left_out: dict[str, str] = {}
    unknown: list[str] = []
    for name in checkpoint.entries:
        if name in used or name in dead:
            continue
        if name.endswith("lm_head.weight"):
            _check_tied(checkpoint, name)
            dead[name] = "the same values as embed_tokens, to which the head is tied"
        elif (owner := checkpoint.tower_of(name)) and owner not in towers:
            left_out[name] = f"{owner} was not asked for (--modalities {','.join(sorted(modalities))})"
        else:
            unknown.append(name)
    if unknown:
        raise UnknownTensor(
            f"{len(unknown)} tensors of the checkpoint are not part of a Gemma 3n, e.g. {min(unknown)!r}: "
            "merge adapters or remove extra heads before compiling"
        )
    present = set(checkpoint.entries)
    return Ledger(
        ("text", *towers),
        tuple(sorted(used)),
        {n: w for n, w in sorted(dead.items()) if n in present},
        dict(sorted(left_out.items())),
    )


def _check_tied(checkpoint: Checkpoint, name: str) -> None:
    embed = checkpoint.text_prefix + "embed_tokens.weight"
    rows = checkpoint.entries[embed].shape[0]
    same = checkpoint.entries[name].shape == checkpoint.entries[embed].shape and all(
        torch.equal(checkpoint.read_tensor(name, block), checkpoint.read_tensor(embed, block))
        for block in ((r, min(r + BLOCK_ROWS, rows)) for r in range(0, rows, BLOCK_ROWS))
    )
    if not same:
        raise UnknownTensor(
            f"{name} differs from embed_tokens.weight: Gemma 3n ties them, an own head is not supported"
        )
