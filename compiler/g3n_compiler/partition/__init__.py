"""Place each subgraph on the accelerator or the CPU, by the target's table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from g3n_compiler.errors import TargetError
from g3n_compiler.lower.backend import LoweredSubgraph
from g3n_compiler.targets import Placement, Target


@dataclass(frozen=True)
class Placed:
    """A subgraph and where it runs."""

    subgraph: LoweredSubgraph
    placement: Placement


def place(subgraphs: Iterable[LoweredSubgraph], target: Target) -> list[Placed]:
    """Look each subgraph up in ``target.placement``; one that the target has no place for is refused."""
    placed = []
    for subgraph in subgraphs:
        placement = target.placement.get(subgraph.name)
        if placement is None:
            raise TargetError(f"--target {target.name} has no place for the subgraph {subgraph.name}")
        placed.append(Placed(subgraph, placement))
    return placed
