"""Run a step in a process of its own, whose memory returns to the system when it ends.

A converter leaves about a gigabyte behind, in live objects or in gaps between them, for the rest of a compile.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, TypeVar

from g3n_compiler.errors import ResourceError

P = ParamSpec("P")
T = TypeVar("T")
_DIE_WITH_PARENT = 1
"""Linux's ``PR_SET_PDEATHSIG``."""
_ORPHANED = 1


def isolated(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """``function(*args, **kwargs)``, called in a fresh process; all of them must be picklable.

    The process ends with this call, however the call ends, and also if the calling process ends.

    Raises:
        ResourceError: the process died.
        Exception: whatever ``function`` raised.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_call, args=(os.getpid(), sender, function, args, kwargs), daemon=True)
    child.start()
    sender.close()
    try:
        result, error = receiver.recv()
    except EOFError:
        child.join()
        raise ResourceError(
            f"{function.__name__} died in its process (exit code {child.exitcode}): "
            "if that is -9, memory ran out; close other programs or use a larger machine"
        ) from None
    finally:
        child.kill()
        child.join()
    if error is not None:
        raise error
    value: T = result
    return value


def end_with_parent(parent: int) -> None:
    """Make this process, which :mod:`multiprocessing` spawned, end when process ``parent``, which asked for it, ends.

    On Linux the kernel does that, even in the middle of a long call; elsewhere a thread waits for the end of a pipe.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    else:
        threading.Thread(target=_wait_for_parent, daemon=True).start()
    if os.getppid() != parent:  # the parent ended before this was called
        os._exit(_ORPHANED)


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)


def _call(
    parent: int, sender: Connection, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    # Ctrl-C reaches the whole process group; the parent decides what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(parent)
    try:
        sender.send((function(*args, **kwargs), None))
    except Exception as error:
        sender.send((None, error))
