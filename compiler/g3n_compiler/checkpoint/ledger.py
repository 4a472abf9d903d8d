"""Account for every tensor of a checkpoint: used, dead (with the reason), left out on request, or unknown (an error).

Exporters that drop what they do not recognise ship towers silently missing; here that is impossible.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch

from g3n_compiler.checkpoint.reader import Checkpoint
from g3n_compiler.errors import TargetError, UnknownTensor
from g3n_compiler.modules.weights import embedding_weights, text_weights

MODALITIES = ("text", "vision", "audio")
TOWERS = {"vision": ("vision_tower.", "embed_vision."), "audio": ("audio_tower.", "embed_audio.")}
BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Ledger:
    """Full tensor names; ``dead`` and ``left_out`` give the reason."""

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
    specs = [*text_weights(config).values(), *embedding_weights(config).values()]
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
        elif modality := _tower_of(name):
            left_out[name] = f"{modality} was not asked for (--modalities {','.join(sorted(modalities))})"
        else:
            unknown.append(name)
    if unknown:
        raise UnknownTensor(
            f"{len(unknown)} tensors of the checkpoint are not part of a Gemma 3n, e.g. {min(unknown)!r}: "
            "merge adapters or remove extra heads before compiling"
        )
    wanted = {m for name in left_out if (m := _tower_of(name)) and m in modalities}
    if wanted:
        raise TargetError(
            f"the checkpoint has a {' and a '.join(sorted(wanted))} tower, which this version cannot compile yet: "
            "pass --modalities text to compile the text model alone"
        )
    present = set(checkpoint.entries)
    return Ledger(
        tuple(sorted(used)), {n: w for n, w in sorted(dead.items()) if n in present}, dict(sorted(left_out.items()))
    )


def _tower_of(name: str) -> str | None:
    relative = name.removeprefix("model.")
    return next((m for m, starts in TOWERS.items() if relative.startswith(starts)), None)


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
