"""A command whose engine may end the process goes on in a child, and what a user sees is an error like any other.

The stock engines check little of what they open: a damaged or hostile file can end them by a signal.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

from g3n_runtime.errors import EngineError

_DIE_WITH_PARENT = 1
"""Linux's ``PR_SET_PDEATHSIG``."""
CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP})


def go_on_in_child(show_error: Callable[[str], None]) -> None:
    """Return in a child of this process, which from now on does nothing but wait for it and end as it does.

    Where the system cannot fork, this returns in the process itself.

    Args:
        show_error: told what happened if an engine ends the child.
    """
    if hasattr(os, "fork") and (child := _fork()):
        sys.exit(_ending_of(child, show_error))


def _fork() -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0 and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    return child


def _ending_of(child: int, show_error: Callable[[str], None]) -> int:
    """The exit code of ``child``; Ctrl-C and the like are for it to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for passed_on in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(passed_on, lambda received, _: os.kill(child, received))
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    number = signal.Signals(os.WTERMSIG(status))
    if number not in CRASHES:
        signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None
        os.kill(os.getpid(), number)
    show_error(
        f"the engine ended by {number.name} while it read or ran the bundle: "
        "the bundle is damaged or made to do this; compile it again, or get it from where you trust"
    )
    return EngineError.exit_code
