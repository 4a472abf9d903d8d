"""Comparisons and their results: what was held against what, how far apart they were, and whether that passes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from g3n_compiler.errors import ParityError

EXACT = 1e-4
"""Relative error allowed between float32 implementations of the same arithmetic."""
SAME = 1e-5
"""Relative error allowed between a whole graph and the same graph run layer by layer: the same kernels, cut apart."""
MARGIN = 1e-3
"""A greedy token may differ only where the reference's best two logits are this close."""


@dataclass(frozen=True)
class Check:
    """One comparison; it passes when ``value <= limit`` (a NaN never does)."""

    name: str
    subgraph: str
    runtime: str
    reference: str
    metric: str
    value: float
    limit: float
    note: str = ""
    parts: tuple[tuple[str, float], ...] = ()
    """The error of each layer or step by its name, in the order in which they run, where they were compared alone."""

    @property
    def passed(self) -> bool:
        return self.value <= self.limit


@dataclass(frozen=True)
class GeneratedText:
    """What a stock engine said, beside what the reference says."""

    runtime: str
    prompt: str
    text: str
    reference_text: str


@dataclass(frozen=True)
class TaskScore:
    """How many of the first examples of a task were answered to the letter."""

    runtime: str
    task: str
    right: int
    examples: int


@dataclass(frozen=True)
class RanOn:
    """What ran a subgraph that belongs on an accelerator."""

    driver: str
    part: str | None = None
    """What of it ran there, if that was not all."""


@dataclass
class Parity:
    """All results of one verification."""

    checks: list[Check] = field(default_factory=list)
    texts: list[GeneratedText] = field(default_factory=list)
    tasks: list[TaskScore] = field(default_factory=list)
    """Only of nano."""
    ran_on: dict[str, RanOn] = field(default_factory=dict)
    """What ran a subgraph that belongs on an accelerator, by the subgraph."""

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(c.passed for c in self.checks)

    def worst(self, runtime: str, subgraph: str) -> float | None:
        """Largest relative error of a subgraph under a runtime; ``None`` if it was not compared on its own."""
        values = [
            c.value
            for c in self.checks
            if (c.runtime, c.subgraph, c.metric) == (runtime, subgraph, "relative error") and math.isfinite(c.value)
        ]
        return rounded(max(values)) if values else None

    def require(self) -> None:
        """Raise :class:`ParityError` naming what failed."""
        failed = [c for c in self.checks if not c.passed]
        if not failed and self.checks:
            return
        lines = [
            f"{c.runtime} {c.subgraph}: {c.name}: {c.metric} {c.value:.3g}, over {c.limit:.3g}, against {c.reference}"
            f"{' (' + c.note + ')' if c.note else ''}"
            for c in failed
        ]
        raise ParityError("the artifact does not match the reference, no bundle was written:\n  " + "\n  ".join(lines))

    def as_dict(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "checks": [_check_fields(c) for c in self.checks],
            "texts": [asdict(t) for t in self.texts],
            "tasks": [asdict(t) for t in self.tasks],
        }


def _check_fields(check: Check) -> dict[str, Any]:
    fields = asdict(check) | {"value": rounded(check.value), "limit": rounded(check.limit), "passed": check.passed}
    del fields["parts"]
    if check.parts:
        fields["parts"] = [{"name": name, "value": rounded(value)} for name, value in check.parts]
    return fields


def rounded(value: float) -> float:
    """Two significant digits: enough to judge, few enough to be the same at every run."""
    return float(f"{min(value, 1e30):.2g}") if math.isfinite(value) else 1e30


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest of :func:`position_errors`."""
    return float(position_errors(actual, expected).max())


def position_errors(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """``max|actual - expected| / max|expected|`` of each position ``[T]``; arrays ``[T, N]``.

    NaN, infinity or another shape count as infinitely wrong.
    """
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return np.array([math.inf])
    difference = np.abs(actual.astype(np.float64) - expected).max(-1)
    scale = np.abs(expected).max(-1).astype(np.float64)
    return np.asarray(difference / np.maximum(scale, 1e-12))


def greedy_margin(actual: Sequence[int], expected: Sequence[int], margins: Sequence[float]) -> float:
    """The reference's margin at the first token that differs; 0 when none does, inf when the lengths differ."""
    if len(actual) != len(expected):
        return math.inf
    return next((m for a, e, m in zip(actual, expected, margins, strict=True) if a != e), 0.0)


def is_degenerate(ids: Sequence[int], pad_id: int) -> bool:
    """Empty, all padding, or one token over and over (at least nine in ten of sixteen or more)."""
    if not ids or all(i == pad_id for i in ids):
        return True
    return len(ids) >= 16 and Counter(ids).most_common(1)[0][1] >= 0.9 * len(ids)
