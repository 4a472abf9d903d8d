"""The engines that a bundle can be opened in, by runtime."""

from __future__ import annotations

from collections.abc import Callable

from g3n_runtime.bundle import Bundle
from g3n_runtime.chat import ON_CPU, ChatEngine, Placement
from g3n_runtime.errors import BundleError, EngineError


def _litert(bundle: Bundle, threads: int, placement: Placement) -> ChatEngine:
    from g3n_runtime.litert.chat import open_chat

    return open_chat(bundle, threads, placement)


def _executorch(bundle: Bundle, threads: int, placement: Placement) -> ChatEngine:
    if placement.needs_gpu:
        raise EngineError("an ExecuTorch bundle runs on the CPU: leave the GPU out, or use --runtime litert")
    from g3n_runtime.executorch.chat import open_chat

    return open_chat(bundle, threads)


# Imported when asked for: a phone or a host may have only one of them.
ENGINES: dict[str, Callable[[Bundle, int, Placement], ChatEngine]] = {"litert": _litert, "executorch": _executorch}


PACKAGES = {
    "litert": ("numpy", "litert_lm"),
    "executorch": ("torch", "executorch.kernels.quantized", "executorch.runtime"),
}
"""What each engine is reached through here, and on no phone."""
IGNORED_SAMPLING = {"litert": frozenset[str](), "executorch": frozenset({"top_k", "top_p", "seed"})}
"""Sampler fields that a stock engine gives no way to set."""


def open_engine(
    bundle: Bundle, runtime: str | None = None, threads: int = 2, placement: Placement = ON_CPU
) -> ChatEngine:
    """Load ``bundle`` in the stock engine of ``runtime`` (default: the first that the bundle has).

    Raises:
        BundleError: the bundle was not compiled for ``runtime``.
        EngineError: ``runtime`` has no GPU, or this machine has no driver for it.
    """
    chosen = bundle.runtimes[0] if runtime is None else runtime
    if chosen not in bundle.runtimes:
        have = ", ".join(bundle.runtimes)
        raise BundleError(
            f"{bundle.directory.name} was compiled for {have}, not for {chosen}: compile it with --runtime {chosen}"
        )
    return ENGINES[chosen](bundle, threads, placement)
