"""Text from a file, a path or a device as data for a terminal: what would control it is shown instead of sent."""

from __future__ import annotations

import re

# C0 and C1 controls but line feed and tab, the marks that change a line's direction, and separators that end lines.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def printable(text: str) -> str:
    r"""``text`` with every character that controls a terminal written as an escape, such as ``\x1b``.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def printable_line(text: str) -> str:
    """As :func:`printable`, for a name or a cell of a table, which has no line feeds or tabs either."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")
