"""Which tensor of a checkpoint each tensor of an adapter's file belongs to.

Source: PEFT's ``get_peft_model_state_dict`` and ``LoraLayer.adapter_layer_names``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from g3n_compiler.errors import CheckpointError

PEFT_PREFIX = "base_model.model."
EMBEDDING = "embed_tokens"
HEAD = "lm_head"
TOWER = re.compile(r"(?:model\.)?((?:audio|vision)_tower|embed_(?:audio|vision))\.")
WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")
"""What DistributedDataParallel, torch.compile and FSDP put before or into names."""

LINEAR = re.compile(r"(?P<module>.+)\.lora_(?P<part>[AB])(?:\.(?P<adapter>[^.]+))?\.weight")
TABLE = re.compile(r"(?P<module>.+)\.lora_embedding_(?P<part>[AB])(?:\.(?P<adapter>[^.]+))?")
TOKENS = re.compile(r"(?P<module>.+)\.token_adapter\.trainable_tokens_delta(?:\.(?P<adapter>[^.]+))?")
SAVED = re.compile(r"(?P<module>.+)\.modules_to_save\.(?P<adapter>[^.]+)\.(?P<rest>.+)")
BASE = re.compile(r"(?P<module>.+?)(?:\.token_adapter)?\.base_layer\.(?P<rest>.+)")


@dataclass
class AdapterKeys:
    """The names in an adapter's file, by what they are and by the name that their module had in training."""

    linear: dict[str, dict[str, str]] = field(default_factory=dict)
    """A and B of a matrix."""
    table: dict[str, dict[str, str]] = field(default_factory=dict)
    """A and B of an embedding, which PEFT stores transposed."""
    tokens: dict[str, str] = field(default_factory=dict)
    """New values of some rows of an embedding."""
    whole: dict[str, str] = field(default_factory=dict)
    """Tensors that are saved whole, by the tensor's name rather than the module's."""


def sort_keys(names: Iterable[str], path: Path) -> AdapterKeys:
    """Tell the tensors of an adapter's file apart.

    Raises:
        CheckpointError: two names are the same tensor's, or the file holds several adapters.
    """
    keys, adapters = AdapterKeys(), set[str | None]()
    for full in sorted(names):
        name = full.removeprefix(PEFT_PREFIX)
        place: dict[str, str]
        if match := LINEAR.fullmatch(name):
            place, part = keys.linear.setdefault(match["module"], {}), match["part"]
        elif match := TABLE.fullmatch(name):
            place, part = keys.table.setdefault(match["module"], {}), match["part"]
        elif match := TOKENS.fullmatch(name):
            place, part = keys.tokens, match["module"]
        elif match := SAVED.fullmatch(name):
            place, part = keys.whole, f"{match['module']}.{match['rest']}"
        else:
            base = BASE.fullmatch(name)
            place, part = keys.whole, name if base is None else f"{base['module']}.{base['rest']}"
        if part in place:
            raise CheckpointError(f"{path}: {full!r} and {place[part]!r} are the same tensor of the adapter")
        place[part] = full
        # A tensor that is saved whole has no adapter's name in its own, whichever form the others have.
        if match is not None:
            adapters.add(match["adapter"])
    if len(adapters) > 1:
        shown = ", ".join(sorted("no name" if name is None else repr(name)[:40] for name in adapters))
        raise CheckpointError(f"{path} holds several adapters ({shown[:200]}): save the one that is wanted alone")
    return keys


class TensorNames:
    """The names of a checkpoint's tensors, found by the names that they have in other forms of the same model.

    Args:
        prefixes: what savers put before the text model's names, as the family's naming has them.
    """

    def __init__(self, names: Collection[str], prefixes: Collection[str]) -> None:
        self._names, self._prefixes = names, prefixes
        tables = [name for name in names if f".{name}".endswith(f".{EMBEDDING}.weight")]
        self.embedding = min(tables, default="")
        """Name of the token table, to which the head is tied."""
        self._text_prefix = self.embedding.removesuffix(f"{EMBEDDING}.weight")
        self.text = [name for name in names if self._is_text(name)]
        """Names of the decoder's tensors."""

    def _is_text(self, name: str) -> bool:
        inner = name.removeprefix(self._text_prefix)
        return name.startswith(self._text_prefix) and not is_head(inner.rpartition(".")[0]) and not TOWER.match(inner)

    def find(self, trained: str) -> str | None:
        """The checkpoint's name of the tensor that was ``trained``; ``None`` if no name, or more than one, fits."""
        if trained in self._names:
            return trained
        found = {
            name
            for prefix in self._prefixes
            if trained.startswith(prefix)
            for relative in [trained.removeprefix(prefix)]
            for name in (self._text_prefix + relative, "model." + relative, relative)
            if name in self._names
        }
        return found.pop() if len(found) == 1 else None

    def require(self, trained: str, key: str, path: Path) -> str:
        """As :meth:`find`, or an error that says why there is none."""
        if (name := self.find(trained)) is not None:
            return name
        if wrapper := next((w for w in WRAPPERS if f".{w}" in f".{trained}"), None):
            raise CheckpointError(
                f"{path}: {key!r} has the prefix {wrapper!r} of a wrapper: save the adapter from the unwrapped model"
            )
        if (tower := TOWER.match(trained)) and not any(tower[1] in name for name in self._names):
            raise CheckpointError(
                f"{path}: {key!r} adapts the {tower[1]}, which the checkpoint does not have: "
                "pass the multimodal checkpoint that it was trained on"
            )
        raise CheckpointError(
            f"{path}: {key!r} adapts no tensor of the checkpoint ({trained!r}): pass the checkpoint that the adapter "
            "was trained on"
        )


def is_head(module: str) -> bool:
    """Whether this is the name of the output head, which has no tensor of its own in a Gemma 3n."""
    return module.rpartition(".")[2] == HEAD


def is_current(trained: str, name: str) -> bool:
    """Whether ``trained`` is the name that ``transformers`` gives the tensor today, in one of the two models."""
    return trained == name or trained.startswith("model.")
