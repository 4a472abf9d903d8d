"""``docs/exit-codes.md`` names every kind of error that there is."""

from __future__ import annotations

import re
from pathlib import Path

import g3n_compiler.errors  # noqa: F401  (defines the compiler's kinds)
from g3n_runtime.errors import G3nError

PAGE = Path(__file__).parents[2] / "docs" / "exit-codes.md"
PACKAGES = ("g3n_compiler", "g3n_runtime")


def kinds(base: type[G3nError] = G3nError) -> list[type[G3nError]]:
    """All classes of errors of ours that a user may meet by name, each once, but for the base."""
    found = [k for child in base.__subclasses__() for k in (child, *kinds(child))]
    ours = [k for k in dict.fromkeys(found) if k.__module__.partition(".")[0] in PACKAGES]
    return [k for k in ours if not k.__name__.startswith("_")]


def row(kind: type[G3nError]) -> str:
    line = " ".join((kind.__doc__ or "").strip().partition("\n\n")[0].split())
    return f"| {kind.exit_code} | `{kind.__name__}` | {line} |"


def test_every_kind_has_its_row_in_order() -> None:
    listed = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if re.match(r"\| \d+ \| `", line)]
    wanted = [row(k) for k in sorted(kinds(), key=lambda k: (k.exit_code, "exit_code" not in vars(k), k.__name__))]
    assert listed == wanted, "docs/exit-codes.md should have these rows:\n" + "\n".join(wanted)


def test_errors_are_defined_where_they_are_looked_for() -> None:
    """A class elsewhere would be counted only by a run that imports its module."""
    assert {k.__module__ for k in kinds()} <= {"g3n_compiler.errors", "g3n_runtime.errors"}


def test_no_two_kinds_share_a_code() -> None:
    own = [k for k in kinds() if "exit_code" in vars(k)]
    assert len({k.exit_code for k in own}) == len(own)
    assert not {0, 1, 2, 130} & {k.exit_code for k in kinds()} and all(k.exit_code < 126 for k in kinds())
