"""Lines on the progress of work that is counted in bytes, now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

SHARE = 0.1
SECONDS = 60.0
"""A line comes when so much more is done, or so much time has gone since the last one."""
LEAST_SECONDS = 2.0
"""Between two lines."""
GB = 1e9


class Meter:
    """Counts bytes and says how far the work is.

    Args:
        what: the beginning of each line.
        total: bytes in all.
        say: called with each line; the first comes at once.
        clock: gives seconds.
    """

    def __init__(
        self, what: str, total: int, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what, self._total, self._say, self._clock = what, total, say, clock
        self._done, self._said = 0, (0, clock())
        say(f"{what}: {in_words(total)}")

    def add(self, nbytes: int) -> None:
        """So many more bytes are done; fewer than none if some must be done again."""
        self._done += nbytes
        done, moment = self._said
        now = self._clock()
        if now - moment < LEAST_SECONDS or self._done >= self._total:
            return
        if self._done - done >= SHARE * self._total or now - moment >= SECONDS:
            self._said = self._done, now
            share = self._done / self._total
            self._say(f"{self._what}: {in_words(self._done)} of {in_words(self._total)} ({share:.0%})")


def in_words(nbytes: int) -> str:
    """Bytes as people count them when they wait."""
    return f"{nbytes / GB:.1f} GB" if nbytes >= GB / 10 else f"{nbytes / 1e6:.1f} MB"
