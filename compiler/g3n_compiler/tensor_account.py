"""Account for every tensor of a checkpoint: used, dead (with the reason), left out on request, or unknown (an error).

Exporters that drop tensors they do not recognise can silently ship a model without its towers; here that is impossible.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from g3n_compiler.errors import UnknownTensor
from g3n_compiler.models.embedding_tables import embedding_weights
from g3n_compiler.source import Source

BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Account:
    """Full tensor names; ``dead`` and ``left_out`` give the reason."""

    used: tuple[str, ...]
    dead: dict[str, str]
    left_out: dict[str, str]


def account(source: Source) -> Account:
    """Classify every tensor, and check shapes on the way.

    Raises:
        UnknownTensor: a required tensor is missing or has the wrong shape, or there is a tensor that nothing explains.
    """
    family, prefix, entries = source.family, source.text_prefix, source.checkpoint.entries
    towers = [t for t in source.towers if t in source.modalities]
    specs = [*family.text_weights(source.text).values(), *embedding_weights(source.text).values()]
    for tower in towers:
        specs += family.towers[tower].weights(source).values()
    for spec in specs:
        source.check_shape(spec)
    used = {source.tensor_name(s.tensor) for s in specs}
    dead = {prefix + name: why for name, why in source.dead_tensors().items()}
    left_out: dict[str, str] = {}
    unknown: list[str] = []
    for name in entries:
        if name in used or name in dead:
            continue
        if name.endswith("lm_head.weight"):
            _check_tied(source, name)
            dead[name] = "the same values as embed_tokens, to which the head is tied"
        elif (owner := source.tower_of(name)) and owner not in towers:
            left_out[name] = (
                f"{owner} was not asked for (--modalities {','.join(sorted(source.modalities))})"
                if owner in source.towers
                else f"the checkpoint has no encoder of {owner} that would use it"
            )
        else:
            unknown.append(name)
    if unknown:
        raise UnknownTensor(
            f"{len(unknown)} tensors of the checkpoint are not part of a {family.title}, for example {min(unknown)!r}: "
            "merge adapters or remove extra heads before compiling"
        )
    return Account(
        tuple(sorted(used)),
        {n: w for n, w in sorted(dead.items()) if n in entries},
        dict(sorted(left_out.items())),
    )


def _check_tied(source: Source, name: str) -> None:
    entries, read = source.checkpoint.entries, source.checkpoint.read_tensor
    embed = source.text_prefix + "embed_tokens.weight"
    rows = entries[embed].shape[0]
    same = entries[name].shape == entries[embed].shape and all(
        torch.equal(read(name, block), read(embed, block))
        for block in ((r, min(r + BLOCK_ROWS, rows)) for r in range(0, rows, BLOCK_ROWS))
    )
    if not same:
        raise UnknownTensor(
            f"{name} differs from embed_tokens.weight: {source.family.title} ties them, "
            "so a separate head is not supported"
        )
