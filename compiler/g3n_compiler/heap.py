"""Return memory that is free within this process to the system."""

from __future__ import annotations

import ctypes
import gc


def release_free_memory() -> None:
    """Return freed heap memory to the system, between steps that each need a lot; otherwise glibc keeps it.

    A tokenizer with 262,144 pieces leaves 0.24 GB behind, and comparing E2B's layers one by one leaves 0.7 GB. This
    does nothing if the C library has no such function (that is, if it is not glibc).
    """
    gc.collect()
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release is not None:
        release(0)
