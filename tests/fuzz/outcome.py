"""What became of a fuzz case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Limits:
    """What a case may take: seconds of the CPU, and seconds on the clock, after which the reader hangs.

    The second are many, since other processes may want the machine too.
    """

    cpu_seconds: float = 5
    wall_seconds: float = 60


Verdict = Literal["read", "refused", "failed", "ended"]


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        what: the message, or what went wrong.
        where: names equal failures alike, by the line that raised them.
        parser: the library that refused the case, or ended the process, where it was not our own code.
    """

    verdict: Verdict
    what: str = ""
    where: str = ""
    parser: str = ""
    seconds: float = 0.0
    memory: int = 0
