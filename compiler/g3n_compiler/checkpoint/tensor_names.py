"""Which tensor each stored name means: savers put different prefixes before the same model's names.

A family lists the prefixes that are known; see :class:`Naming`. Where a checkpoint holds one tensor under two names,
the one counts that ``transformers`` takes: the first in the natural order of names
(``transformers.core_model_loading.convert_and_load_state_dict_in_model``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from g3n_compiler.checkpoint.remark import Remark
from g3n_compiler.errors import UnknownTensor

HEAD = "lm_head.weight"


class Prefix(NamedTuple):
    """What a saver writes before the names of the text model, or of the towers."""

    text: str
    saver: str
    taken: bool = True
    """Whether ``transformers`` itself takes it; where it does not, it would start these weights at random."""


@dataclass(frozen=True)
class Naming:
    """How a family's tensors can be called in a checkpoint; the first prefix of each kind is the name that is used."""

    text: tuple[Prefix, ...]
    towers: tuple[Prefix, ...] = (Prefix("", ""),)
    heads: frozenset[str] = frozenset({HEAD})
    """Names under which ``transformers`` takes a head."""
    tied: bool = True
    """Whether the configuration says that the head is the token table."""
    has_towers: bool = True
    """Whether the configuration is of a model with towers; one without leaves their tensors aside."""
    buffers: frozenset[str] = frozenset()
    """Last parts of names that older versions saved, and that are made of the configuration."""


@dataclass(frozen=True)
class Names:
    """The tensors of a checkpoint by the names that are used."""

    stored: Mapping[str, str]
    """The name in the file, by the name that is used; a tensor that nobody knows keeps its own."""
    aside: Mapping[str, str] = field(default_factory=dict)
    """Names in the file that mean a tensor which another name gives, with the reason."""


def match_names(
    names: Collection[str], naming: Naming, text: Collection[str], towers: tuple[str, ...], remark: Remark
) -> Names:
    """Find what each of ``names`` means.

    Args:
        names: the names in the files.
        text: first parts of the text model's names, such as ``layers``.
        towers: beginnings of the towers' names, such as ``vision_tower.``.
    """
    text_matches = list(_matches(names, naming.text, lambda rest: rest.partition(".")[0] in text))
    tower_matches = list(_matches(names, naming.towers, lambda rest: rest.startswith(towers)))
    used = set[Prefix]()
    stored, aside = dict[str, str](), dict[str, str]()
    for matches in (text_matches, tower_matches):
        # Beside names that transformers takes it does not see the others, which may be of another training.
        taken = any(match.prefix.taken for match in matches)
        for match in sorted(matches, key=lambda m: (m.prefix.taken != taken, natural_key(m.name))):
            if match.meant in stored:
                aside[match.name] = f"transformers takes {stored[match.meant]!r} for the same tensor"
            elif match.prefix.taken == taken:
                stored[match.meant] = match.name
                used.add(match.prefix)
    _tell(naming, used, aside, remark)
    placed = {*stored.values(), *aside}
    return Names(stored | {name: name for name in names if name not in placed and name not in stored}, aside)


class _Match(NamedTuple):
    meant: str
    name: str
    prefix: Prefix


def _matches(names: Collection[str], known: Sequence[Prefix], belongs: Callable[[str], bool]) -> Iterator[_Match]:
    """The names that are a known prefix and then a name within the model, of which no part is a prefix too."""
    for name in names:
        for prefix in known:
            if name.startswith(prefix.text) and belongs(rest := name[len(prefix.text) :]):
                yield _Match(known[0].text + rest, name, prefix)
                break


def _tell(naming: Naming, used: Collection[Prefix], aside: Mapping[str, str], remark: Remark) -> None:
    own = {naming.text[0].text, naming.towers[0].text}
    for prefix in sorted(used):
        shown = repr(prefix.text) if prefix.text else "no prefix"
        if not prefix.taken:
            remark(
                f"the tensors have {shown} before their names, as {prefix.saver} wrote them; they are read, though "
                "transformers itself would start them at random"
            )
        elif prefix.text not in own:
            remark(f"the tensors have {shown} before their names, as {prefix.saver} writes them")
    if aside:
        first = min(aside)
        remark(f"tensors are stored twice ({len(aside)}, e.g. {first!r}): {aside[first]}")


class Wrapper(NamedTuple):
    """What a wrapper around the model leaves in the names of a state dict."""

    part: str
    """One or more parts of a name."""
    saver: str
    remedy: str


UNWRAP = "save the model itself: unwrapped.save_pretrained(FOLDER) of accelerator.unwrap_model(model), or model.module"
MERGE = "merge the adapter first: model.merge_and_unload().save_pretrained(FOLDER)"
WRAPPERS = (
    Wrapper("base_model.model", "PEFT", MERGE),
    Wrapper("base_layer", "PEFT", MERGE),
    Wrapper("original_module", "PEFT", MERGE),
    Wrapper("modules_to_save", "PEFT", MERGE),
    *(
        Wrapper(part, "PEFT", MERGE)
        for part in ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")
    ),
    Wrapper("_fsdp_wrapped_module", "FSDP", "save with accelerator.get_state_dict(model), or a FULL_STATE_DICT"),
    Wrapper("_checkpoint_wrapped_module", "activation checkpointing", UNWRAP),
    Wrapper("_orig_mod", "torch.compile", "save the model that was compiled: model._orig_mod.save_pretrained(FOLDER)"),
    Wrapper("_forward_module", "Lightning", "save the model inside: module.model.save_pretrained(FOLDER)"),
    Wrapper("state_dict", "Lightning", "save the model inside: module.model.save_pretrained(FOLDER)"),
    Wrapper("pretrained_model", "TRL's model with a value head", "save model.pretrained_model.save_pretrained(FOLDER)"),
    Wrapper("parametrizations", "torch.nn.utils.parametrize", "call remove_parametrizations before saving"),
    Wrapper("module", "DDP or DeepSpeed", UNWRAP),
)  # fmt: skip


def refuse_wrapped(names: Collection[str]) -> None:
    """Raise :class:`UnknownTensor` if a wrapper's prefix is in the names."""
    for wrapper in WRAPPERS:
        for name in sorted(names):
            if f".{wrapper.part}." in f".{name}":
                raise UnknownTensor(
                    f"tensor {name[:200]!r} has {wrapper.part + '.'!r} in its name, which {wrapper.saver} leaves "
                    f"there: {wrapper.remedy}"
                )


def foreign_prefix(names: Collection[str], member: str) -> str | None:
    """What stands before ``member`` in the names of a saver that is not known."""
    ends = (name.removesuffix(member) for name in sorted(names) if name.endswith(member))
    return next((end for end in ends if not end or end.endswith(".")), None)


def natural_key(name: str) -> list[tuple[int, str, int]]:
    """Sort key of names with the numbers in them as numbers; ``dot_natural_key`` of ``transformers``."""
    return list(_parts(name))


def _parts(name: str) -> Iterator[tuple[int, str, int]]:
    for part in name.split("."):
        text = part.rstrip("0123456789")
        digits = part[len(text) :]
        yield (1 if text else 0, text, int(digits) if digits else -1)
