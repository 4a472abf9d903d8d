"""What the doctor found, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from g3n_compiler.doctor.values import TensorValues


@dataclass(frozen=True)
class Fact:
    """One thing that is so; ``section`` is the part of the report that it belongs to."""

    section: str
    what: str
    found: str


@dataclass(frozen=True)
class Check:
    """One thing that a compile checks; ``error`` is the message with which it would end."""

    name: str
    error: str | None = None
    kind: str | None = None
    exit_code: int = 0
    skipped: str | None = None
    """Why it could not be looked at."""

    @property
    def passed(self) -> bool:
        return self.error is None and self.skipped is None


@dataclass
class Findings:
    """Everything about one folder."""

    directory: str
    facts: list[Fact] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Sentences on what was found: which of two sources counts, and what will be slow."""
    checks: list[Check] = field(default_factory=list)
    """In the order in which a compile meets them."""
    values: Sequence[TensorValues] | None = None
    """Of every tensor, the worst first; ``None`` if the weights were not read."""

    def tell(self, section: str, what: str, found: str) -> None:
        self.facts.append(Fact(section, what, found))

    @property
    def refusals(self) -> list[Check]:
        return [check for check in self.checks if check.error is not None]

    @property
    def exit_code(self) -> int:
        """Of the compile, as far as the folder decides it."""
        return next((check.exit_code for check in self.refusals), 0)

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        sections: dict[str, dict[str, str]] = {}
        for fact in self.facts:
            sections.setdefault(fact.section, {})[fact.what] = fact.found
        checks = [
            {
                "name": c.name,
                "passed": c.passed,
                "error": c.error,
                "kind": c.kind,
                "exit_code": c.exit_code,
                "skipped": c.skipped,
            }
            for c in self.checks
        ]
        values = None if self.values is None else [v.as_dict() for v in self.values]
        return {
            "checkpoint": self.directory,
            "compiles": self.exit_code == 0,
            "exit_code": self.exit_code,
            "facts": sections,
            "notes": self.notes,
            "checks": checks,
            "weights": values,
        }
