"""What a message says of a name that is not among those that there are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 60
"""Characters of a wrong name that are shown."""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """That ``name`` is no ``what``, which there are, and which of them was probably meant.

    >>> unknown("size", "e2", ("nano", "e2b", "e4b"))
    "unknown size 'e2', expected one of nano, e2b, e4b: did you mean e2b?"
    """
    names = list(known)
    return f"unknown {what} {name[:LONGEST]!r}, expected one of {', '.join(names)}{meant(name, names)}"


def meant(name: str, known: Iterable[str]) -> str:
    """``: did you mean ...?`` if a name is close to ``name``, else nothing."""
    by_lower = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name[:LONGEST].lower(), by_lower, n=1)
    return f": did you mean {by_lower[close[0]]}?" if close else ""
