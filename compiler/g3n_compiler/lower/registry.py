"""The backends by runtime: a new one is a folder and one line of :data:`BACKENDS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from g3n_compiler.lower.subgraphs import Runtime

if TYPE_CHECKING:
    from g3n_compiler.lower.backend import Backend


def _litert() -> Backend:
    from g3n_compiler.lower.litert.backend import LiteRtBackend

    return LiteRtBackend()


def _executorch() -> Backend:
    from g3n_compiler.lower.executorch.backend import ExecuTorchBackend

    return ExecuTorchBackend()


# Imported on demand, because each brings in a whole toolchain.
BACKENDS: dict[Runtime, Callable[[], Backend]] = {"litert": _litert, "executorch": _executorch}


def get_backend(runtime: Runtime) -> Backend:
    return BACKENDS[runtime]()
