"""What ExecuTorch raises over a damaged program, and what reading its answers does, as one error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from g3n_runtime.errors import EngineError


@contextmanager
def program_errors() -> Iterator[None]:
    """Within, or in a function that it decorates, such an exception becomes an :class:`EngineError`."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, LookupError, OverflowError, AttributeError) as error:
        raise EngineError(
            f"ExecuTorch cannot run the program ({error or type(error).__name__}): it is damaged or not one of g3n's, "
            "copy the bundle again"
        ) from None
