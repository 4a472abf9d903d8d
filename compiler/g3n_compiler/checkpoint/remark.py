"""How readers of a checkpoint tell a person what they found, where it is neither an error nor plain to see."""

from __future__ import annotations

from collections.abc import Callable

Remark = Callable[[str], None]
"""Called with one sentence: what was found, which of several sources was taken, and what was ignored."""


def no_remark(_: str) -> None:
    """For callers with nobody to tell."""
