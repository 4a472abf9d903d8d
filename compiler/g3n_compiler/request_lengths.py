"""The context and the prefill lengths of a bundle, and the memory that they and the weights take."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from g3n_compiler.errors import ContextError
from g3n_compiler.lower.artifact import LoweredSubgraph
from g3n_compiler.lower.backend import Backend
from g3n_compiler.lower.subgraphs import Runtime
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.models.registry import text_weights
from g3n_compiler.models.shape import TextShape
from g3n_compiler.quantize.recipe import Recipe

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


def peak_memory(
    context: int | None,
    prefill_lengths: tuple[int, ...] | None,
    recipe: Recipe,
    backends: Mapping[Runtime, Backend],
) -> Callable[[TextShape], int]:
    """A function that gives the most bytes that a bundle of some shape takes in any of the runtimes, by their memory
    ledgers.
    """

    def peak(shape: TextShape) -> int:
        config = gemma3n_config(shape)
        length = choose_context(context, config)
        prefill = max(choose_prefill(prefill_lengths, length))
        nbytes = sum(recipe.scheme(spec).nbytes(spec.shape) for spec in text_weights(config).values())
        return max(
            max(backend.memory_ledger(config, recipe, length, prefill, [_core(runtime, nbytes)])["peak"].values())
            for runtime, backend in backends.items()
        )

    return peak


def _core(runtime: Runtime, nbytes: int) -> LoweredSubgraph:
    return LoweredSubgraph("core", runtime, "", "", nbytes, (), None)
