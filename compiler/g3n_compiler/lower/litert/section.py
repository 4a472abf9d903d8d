"""A lowered tower as sections of a ``.litertlm``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from g3n_compiler.lower.artifact import Delegation
from g3n_compiler.lower.litert.container import SectionKind
from g3n_compiler.lower.subgraphs import Subgraph


@dataclass(frozen=True)
class TowerPart:
    """One section of a tower, lowered to ``path``.

    ``views`` are models within it, by name, that begin at a byte of it and end with it: other entry points over the
    same weights (:mod:`.split`), which the stock engine does not look at.
    """

    subgraph: Subgraph
    kind: SectionKind
    path: Path
    signatures: tuple[str, ...]
    delegation: Delegation | None
    views: Mapping[str, int] = field(default_factory=dict)
