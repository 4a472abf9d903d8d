"""Ctrl-C that ends a compile even where a toolchain swallows it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from g3n_compiler.cli.show import messages

INTERRUPTED = 130
GRACE_SECONDS = 5.0
_SHOW_CURSOR = "\x1b[?25h"


@contextmanager
def insistent_interrupt(grace: float = GRACE_SECONDS) -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` on Ctrl-C, and end the process with 130 if it is still here ``grace`` s later.

    Converters catch every exception around some of their steps. A compile may end at any moment: what it finished is
    in its work folder, and nothing there is taken for a bundle.
    """
    pending: list[threading.Timer] = []

    def on_interrupt(signum: int, frame: FrameType | None) -> None:
        if not pending:
            pending.append(threading.Timer(grace, _end))
            pending[0].daemon = True
            pending[0].start()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        for timer in pending:
            timer.cancel()


def _end() -> None:
    stream = messages()
    stream.write((_SHOW_CURSOR if stream.isatty() else "") + "interrupted\n")
    stream.flush()
    os._exit(INTERRUPTED)
