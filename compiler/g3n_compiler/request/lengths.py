"""The context and the prefill lengths of a bundle."""

from __future__ import annotations

from g3n_compiler.errors import ContextError
from g3n_compiler.models.shape import TextShape

DEFAULT_CONTEXT = 4096
DEFAULT_PREFILL = (128, 256)


def choose_context(asked: int | None, shape: TextShape) -> int:
    context = min(DEFAULT_CONTEXT, shape.max_context) if asked is None else asked
    if not 1 < context <= shape.max_context:
        raise ContextError(f"--context {context} is outside 2 to {shape.max_context}, which the model supports")
    return context


def choose_prefill(asked: tuple[int, ...] | None, context: int) -> tuple[int, ...]:
    lengths = tuple(n for n in DEFAULT_PREFILL if n < context) or (context - 1,) if asked is None else asked
    if bad := [n for n in lengths if not 1 < n < context]:
        raise ContextError(f"--prefill-lengths {bad[0]} is outside 2 to {context - 1}, the context less one")
    return tuple(sorted(set(lengths)))
