"""The names of a checkpoint's tensors, matched with those of its family."""

from __future__ import annotations

from g3n_compiler.checkpoint.reader import Checkpoint
from g3n_compiler.checkpoint.remark import Remark
from g3n_compiler.checkpoint.tensor_names import Names, foreign_prefix, match_names
from g3n_compiler.errors import UnknownTensor
from g3n_compiler.models.embedding_tables import embedding_weights
from g3n_compiler.models.family import Family
from g3n_compiler.models.shape import TextShape

TOKENS = "embed_tokens.weight"


def tensor_names(checkpoint: Checkpoint, family: Family, shape: TextShape, remark: Remark) -> Names:
    """What the names in the files of ``checkpoint`` mean.

    Raises:
        UnknownTensor: there is no text model of ``family`` among them.
    """
    naming, stored = family.naming(checkpoint.config), checkpoint.entries
    specs = [*family.text_weights(shape).values(), *embedding_weights(shape).values()]
    members = {spec.tensor.partition(".")[0] for spec in specs} | {
        n.partition(".")[0] for n in family.dead_weights(shape)
    }
    towers = tuple(prefix for tower in family.towers.values() for prefix in tower.tensors)
    names = match_names(stored, naming, members, towers, remark)
    tokens = naming.text[0].text + TOKENS
    if tokens in names.stored:
        return names
    head = next((name for name in sorted(naming.heads) if name in stored), None)
    if head is not None and naming.tied:
        remark(f"{head} is read as the token table, which it is tied to and which is not stored")
        kept = {name: given for name, given in names.stored.items() if given != head}
        return Names(kept | {tokens: head}, names.aside)
    strange = foreign_prefix(stored, TOKENS)
    known = ", ".join(repr(prefix.text) for prefix in naming.text)
    raise UnknownTensor(
        f"the checkpoint has no {TOKENS}: it holds no {family.title} text model"
        if strange is None
        else f"the tensors have {strange[:80]!r} before their names, which no known saver of {family.title} writes: "
        f"rename them to one of {known}"
    )
