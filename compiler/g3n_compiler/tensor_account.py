"""Account for every tensor of a checkpoint: used, dead, or left out, each of these two with the reason.

Exporters that drop tensors in silence can ship a model without its towers. What ``transformers`` does not load is left
out here too, but it is told, and the manifest lists it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from g3n_compiler.checkpoint.remark import Remark, no_remark
from g3n_compiler.checkpoint.tensor_names import HEAD
from g3n_compiler.errors import UnknownTensor
from g3n_compiler.models.embedding_tables import embedding_weights
from g3n_compiler.models.family_names import TOKENS
from g3n_compiler.source import Source

BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Account:
    """Full tensor names; ``dead`` and ``left_out`` give the reason."""

    used: tuple[str, ...]
    dead: dict[str, str]
    left_out: dict[str, str]


def account(source: Source, remark: Remark = no_remark) -> Account:
    """Classify every tensor, and check shapes and dtypes on the way.

    Raises:
        UnknownTensor: a required tensor is missing or has the wrong shape.
        BadHeader: a required tensor does not hold floats.
    """
    family, prefix, entries = source.family, source.text_prefix, source.checkpoint.entries
    towers = [t for t in source.towers if t in source.modalities]
    tables = embedding_weights(source.text).values()
    specs = [*family.text_weights(source.text).values(), *tables]
    for tower in towers:
        specs += family.towers[tower].weights(source).values()
    _check_rows(source)
    for spec in specs:
        source.check_shape(spec)
        _ = source.dtype(spec.tensor)
    used = {source.tensor_name(s.tensor) for s in specs}
    dead = {prefix + name: why for name, why in source.dead_tensors().items()}
    heads = account_heads(source, remark)
    left_out = dict(source.checkpoint.aside)
    unknown: list[str] = []
    for name in entries:
        if name in used or name in dead:
            continue
        if name in heads:
            dead[name] = heads[name]
        elif name.rpartition(".")[2] in source.naming.buffers:
            dead[name] = "made of the configuration"
        elif (owner := source.tower_of(name)) and owner not in towers:
            left_out[name] = (
                f"{owner} was not asked for (--modalities {','.join(sorted(source.modalities))})"
                if owner in source.towers
                else f"the checkpoint has no encoder of {owner} that would use it"
                if source.naming.has_towers
                else "config.json is of a text model alone"
            )
        elif not entries[name].is_float:
            dead[name] = f"{entries[name].kind}: no weight, and nothing reads it"
        else:
            unknown.append(name)
    if unknown:
        left_out |= dict.fromkeys(unknown, f"{family.title} has no tensor of this name, and transformers loads none")
        several = f"{len(unknown)} tensors that are" if len(unknown) > 1 else "a tensor that is"
        remark(
            f"the checkpoint holds {several} not part of a {family.title}, {_some(unknown)}: ignored, as "
            "transformers does, so a head or layers that were trained beside the model are not in the bundle"
        )
    return Account(
        tuple(sorted(used)),
        {n: w for n, w in sorted(dead.items()) if n in entries},
        dict(sorted(left_out.items())),
    )


def _some(names: list[str]) -> str:
    """A few of the names, the first of each beginning."""
    first = {name.partition(".layers.")[0].partition(".")[0]: name for name in sorted(names, reverse=True)}
    shown = ", ".join(repr(name[:100]) for name in sorted(first.values())[:3])
    return shown if len(names) == 1 else f"e.g. {shown}"


def _check_rows(source: Source) -> None:
    """Raise unless both tables have the rows that the configuration implies: a vocabulary is often resized."""
    fields = {"embed_tokens.weight": "vocab_size", "embed_tokens_per_layer.weight": "vocab_size_per_layer_input"}
    for spec in embedding_weights(source.whole).values():
        name = source.tensor_name(spec.tensor)
        if name not in source.checkpoint.entries:
            continue  # it is reported as missing
        rows, expected = source.checkpoint.entries[name].shape[:1], spec.shape[:1]
        if rows != expected:
            field = fields.get(spec.tensor, "vocabulary")
            raise UnknownTensor(
                f"tensor {name!r} has {rows[0] if rows else 0} rows, but config.json's {field} is {expected[0]}: the "
                "vocabulary was resized after one of them was saved; save both with model.save_pretrained(FOLDER)"
            )


def account_heads(source: Source, remark: Remark) -> dict[str, str]:
    """The heads that are stored, each with the reason why it is not read.

    A head that ``transformers`` would load must have the values of the token table: it does not tie two that differ,
    whatever the configuration says.

    Raises:
        UnknownTensor: it has other values, or the head is not tied and is not there.
    """
    naming, entries = source.naming, source.checkpoint.entries
    embed = source.text_prefix + TOKENS
    stored = source.checkpoint.stored_name(embed)
    ends = {prefix.text + HEAD for prefix in (*naming.text, *naming.towers)}
    heads = [name for name in entries if name in naming.heads or name in ends]
    # transformers loads nothing of such a checkpoint, whose head is the one that its saver wrote
    own = {prefix.text + TOKENS for prefix in naming.text if not prefix.taken}
    told = "the same values as embed_tokens, to which the head is tied"
    found: dict[str, str] = {}
    for name in heads:
        if _equal(source, name, embed):
            found[name] = told
        elif name in naming.heads or stored in own:
            raise UnknownTensor(
                f"{name} differs from embed_tokens.weight, and transformers computes with it, whatever "
                f"tie_word_embeddings says: {source.family.title} ties them, so a separate head is not supported"
            )
        else:
            found[name] = "transformers does not load a head of this name"
            remark(f"{name} differs from embed_tokens.weight and is ignored: transformers ties the head to the table")
    if not naming.tied and not found:
        raise UnknownTensor(
            f"config.json says tie_word_embeddings false, but there is no {HEAD}, which transformers would start at "
            "random: set it to true if the head is the token table"
        )
    return found


def _equal(source: Source, name: str, embed: str) -> bool:
    """Whether two tensors have the same values; read by blocks of rows, for a table can have gigabytes."""
    entries, read = source.checkpoint.entries, source.checkpoint.read_tensor
    rows = entries[embed].shape[0]
    return entries[name].shape == entries[embed].shape and all(
        torch.equal(read(name, block), read(embed, block))
        for block in ((r, min(r + BLOCK_ROWS, rows)) for r in range(0, rows, BLOCK_ROWS))
    )
