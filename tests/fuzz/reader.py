"""What the fuzz test knows of a reader, and how to draw what lies where a file is meant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from tests.fuzz.case import Case, Entry

SPECIAL = (
    *(Entry("folder"), Entry("pipe"), Entry("zeros"), Entry("loop"), Entry("unreadable"), Entry("missing"), Entry()),
    Entry(data=b"\0" * 100_000),
    Entry(data=b"\xff\xfe" + "{}".encode("utf-16-le")),
    Entry(data=b"", size=100_000_000_000),
)
"""What no strategy makes of a seed's bytes: no files, empty ones, and one larger than any memory."""


@dataclass(frozen=True)
class Reader:
    """A reader of the product and hostile cases for it.

    Args:
        make: writes the seeds, valid files as a user has them, into a folder.
        cases: the strategy over that folder.
        open: gives the call of the reader on a folder; made once in the child, so that it may import and keep things.
        guarded_by: what turns the end of the process into an error of ours, where a library may end it.
    """

    name: str
    make: Callable[[Path], None]
    cases: Callable[[Path], st.SearchStrategy[Case]]
    open: Callable[[], Callable[[Path], object]]
    guarded_by: str = ""


def files(name: str, contents: st.SearchStrategy[bytes]) -> st.SearchStrategy[Case]:
    """Cases of one file: its bytes mostly, now and then something else under its name."""
    return st.integers(0, 24).flatmap(
        lambda n: (
            st.builds(lambda entry: {name: entry}, st.sampled_from(SPECIAL))
            if n == 24
            else st.builds(lambda data: {name: Entry(data=data)}, contents)
        )
    )
