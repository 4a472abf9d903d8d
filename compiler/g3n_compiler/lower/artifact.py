"""What a backend makes: the files of a bundle and the subgraphs in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from g3n_compiler.lower.subgraphs import Runtime, Subgraph


@dataclass(frozen=True)
class Delegation:
    """What the delegate really runs, measured on the lowered artifact; the rest falls back to plain kernels."""

    measured_with: str
    delegated_ops: int
    total_ops: int
    op_share: float
    flop_share: float
    fallbacks: dict[str, int]


@dataclass(frozen=True)
class LoweredFile:
    """A file of the bundle; ``path`` is relative to the bundle's folder."""

    path: str
    role: str


Files = Mapping[str, Path]
"""Where the files of a bundle lie, by their roles."""


@dataclass(frozen=True)
class LoweredSubgraph:
    """A subgraph in the bundle: ``role`` is its file's role, ``digest`` the SHA-256 of its own bytes."""

    name: Subgraph
    runtime: Runtime
    role: str
    digest: str
    nbytes: int
    signatures: tuple[str, ...]
    delegation: Delegation | None


@dataclass(frozen=True)
class Lowered:
    """What a backend made."""

    files: tuple[LoweredFile, ...]
    subgraphs: tuple[LoweredSubgraph, ...]
    sizes: Mapping[str, Delegation] = field(default_factory=dict)
    """What the delegate runs of each smaller size of an elastic bundle."""

    def paths(self, directory: Path) -> dict[str, Path]:
        """The files in ``directory``, by their roles."""
        return {file.role: directory / file.path for file in self.files}


def join(parts: Iterable[Lowered]) -> Lowered:
    """What several backends made for one bundle; a file that two of them made alike is listed once."""
    made = list(parts)
    files = {f.path: f for part in made for f in part.files}
    sizes = {name: delegation for part in made for name, delegation in part.sizes.items()}
    return Lowered(tuple(files.values()), tuple(s for part in made for s in part.subgraphs), sizes)
