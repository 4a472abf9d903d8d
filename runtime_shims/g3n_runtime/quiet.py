"""Keep what engines print about themselves off the terminal: what goes wrong is raised as an error."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

STDERR = 2
VERBOSE = "G3N_VERBOSE"
"""In the environment, it lets everything through."""


def is_verbose() -> bool:
    return bool(os.environ.get(VERBOSE))


@contextmanager
def silenced_stderr() -> Iterator[TextIO]:
    """Send ``sys.stderr`` and file descriptor 2 to nowhere; gives a stream to where they pointed, for our own words.

    Some engines write to the one and some to the other; some speak last when the process ends.
    """
    before = sys.stderr
    try:
        is_terminal_stream = before.fileno() == STDERR
    except (OSError, ValueError):
        is_terminal_stream = False
    if not is_terminal_stream:
        yield before
        return
    before.flush()
    kept = os.dup(STDERR)
    with (
        os.fdopen(kept, "w", buffering=1, encoding="utf-8", errors="backslashreplace") as stream,
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
    ):
        sys.stderr = nowhere
        os.dup2(nowhere.fileno(), STDERR)
        atexit.register(_silence_to_the_end)
        try:
            yield stream
        finally:
            stream.flush()
            os.dup2(kept, STDERR)
            sys.stderr = before


def _silence_to_the_end() -> None:
    """Nobody hears what native code says while the interpreter is taken down; all that we had to say was said."""
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDERR)
    os.close(nowhere)
