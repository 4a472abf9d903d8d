"""The memory that a bundle will take on a device, reckoned before anything is compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from g3n_compiler.lower.artifact import LoweredSubgraph
from g3n_compiler.lower.backend import Backend
from g3n_compiler.lower.subgraphs import Runtime
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.models.registry import text_weights
from g3n_compiler.models.shape import TextShape
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.request.lengths import choose_context, choose_prefill


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
