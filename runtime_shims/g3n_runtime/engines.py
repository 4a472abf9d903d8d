"""The engines that a bundle can be opened in, by runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from g3n_runtime.bundle import Bundle
from g3n_runtime.chat import ON_CPU, ChatEngine, Placement
from g3n_runtime.errors import BundleError, EngineError


def _litert(
    bundle: Bundle, threads: int, placement: Placement, context: int | None, adapter: Path | None
) -> ChatEngine:
    from g3n_runtime.litert.chat import open_chat

    return open_chat(bundle, threads, placement, context, adapter)


def _executorch(
    bundle: Bundle, threads: int, placement: Placement, context: int | None, adapter: Path | None
) -> ChatEngine:
    if adapter is not None:
        raise EngineError(
            "an ExecuTorch bundle takes no adapter while it runs: merge it with g3n-compile --lora, or use "
            "--runtime litert"
        )
    if placement.needs_gpu:
        raise EngineError("an ExecuTorch bundle runs on the CPU: leave the GPU out, or use --runtime litert")
    if context is not None:
        raise EngineError(
            "the caches of an ExecuTorch bundle are as long as it was compiled for: leave the context out, or use "
            "--runtime litert"
        )
    from g3n_runtime.executorch.chat import open_chat

    return open_chat(bundle, threads)


# Imported when asked for: a phone or a host may have only one of them.
ENGINES: dict[str, Callable[[Bundle, int, Placement, int | None, Path | None], ChatEngine]] = {
    "litert": _litert,
    "executorch": _executorch,
}


PACKAGES = {
    "litert": ("numpy", "litert_lm"),
    "executorch": ("torch", "executorch.kernels.quantized", "executorch.runtime"),
}
"""What each engine is reached through here, and on no phone."""
IGNORED_SAMPLING = {"litert": frozenset[str](), "executorch": frozenset({"top_k", "top_p", "seed"})}
"""Sampler fields that a stock engine gives no way to set."""
ELASTIC = frozenset({"litert"})
"""Runtimes in which our own loop runs the smaller sizes of an elastic bundle."""


def open_engine(
    bundle: Bundle,
    runtime: str | None = None,
    threads: int = 2,
    placement: Placement = ON_CPU,
    context: int | None = None,
    adapter: Path | None = None,
) -> ChatEngine:
    """Load ``bundle`` in the stock engine of ``runtime`` (default: the first that the bundle has).

    Args:
        context: tokens that the engine makes room for, by default the bundle's context; LiteRT-LM only.
        adapter: a file of ``g3n-lora`` for this bundle; LiteRT-LM only.

    Raises:
        BundleError: the bundle was not compiled for ``runtime``.
        EngineError: ``runtime`` has no GPU, no choice of context or no adapters, this machine has no driver, or the
            bundle was compiled for a shorter context or the adapter for another bundle.
    """
    chosen = bundle.runtimes[0] if runtime is None else runtime
    if chosen not in bundle.runtimes:
        have = ", ".join(bundle.runtimes)
        raise BundleError(
            f"{bundle.directory.name} was compiled for {have}, not for {chosen}: compile it with --runtime {chosen}"
        )
    return ENGINES[chosen](bundle, threads, placement, context, adapter)
