"""A lowered tower as sections of a ``.litertlm``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from g3n_compiler.lower.artifact import Delegation
from g3n_compiler.lower.litert.container import SectionKind
from g3n_compiler.lower.subgraphs import Subgraph


@dataclass(frozen=True)
class TowerSection:
    """One section of a tower, lowered to ``path``.

    ``views`` are models within it, by name: each begins at the given byte and ends with the section. They are other
    entry points to the same weights (:mod:`.file_headers`), which the stock engine ignores.
    """

    subgraph: Subgraph
    kind: SectionKind
    path: Path
    signatures: tuple[str, ...]
    delegation: Delegation | None
    views: Mapping[str, int] = field(default_factory=dict)
