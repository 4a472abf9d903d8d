"""The report's list of comparisons, by runtime and subgraph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

SMALLEST, LARGEST = -9.0, 1.0
"""Exponents of ten between which a comparison's bar is drawn."""


@dataclass(frozen=True)
class Row:
    """One comparison; ``bar`` and ``mark`` are where value and limit lie on a logarithmic scale, in percent."""

    check: dict[str, Any]
    bar: float
    mark: float


@dataclass(frozen=True)
class Group:
    """The comparisons of one subgraph under one runtime."""

    runtime: str
    subgraph: str
    rows: list[Row]

    @property
    def passed(self) -> int:
        return sum(row.check["passed"] for row in self.rows)

    @property
    def closest(self) -> float | None:
        """The largest part of its limit that an error takes, in percent."""
        shares = [row.check["value"] / row.check["limit"] for row in self.rows if row.check["limit"] > 0]
        return 100 * max(shares) if shares else None


def groups(manifest: dict[str, Any]) -> list[Group]:
    """All comparisons, in the order in which they were made."""
    found: dict[tuple[str, str], Group] = {}
    for check in manifest["parity"]["checks"]:
        key = (check["runtime"], check["subgraph"])
        group = found.setdefault(key, Group(*key, []))
        group.rows.append(Row(check, _place(check["value"]), _place(check["limit"])))
    return list(found.values())


def _place(value: float) -> float:
    if value <= 0:
        return 0.0
    return 100 * min(max((math.log10(value) - SMALLEST) / (LARGEST - SMALLEST), 0.0), 1.0)
