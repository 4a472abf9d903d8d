"""Programs as ExecuTorch loads them: the check before, the errors, and a tower that is a program of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from g3n_runtime.errors import EngineError
from g3n_runtime.open_file import OpenFile, address

PROGRAM_MAGIC = b"ET12"


@contextmanager
def program_errors() -> Iterator[None]:
    """Within, or in a function that it decorates, what ExecuTorch raises over a damaged program, and what reading its
    answers does, becomes an :class:`EngineError`."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, LookupError, OverflowError, AttributeError) as error:
        raise EngineError(
            f"ExecuTorch cannot run the program ({error or type(error).__name__}): it is damaged or not one of g3n's, "
            "copy the bundle again"
        ) from None


def load_program(path: Path | OpenFile, tables: Path | OpenFile | None = None) -> Any:
    """The program at ``path`` with the data file that it needs; both stay mapped as long as what is returned.

    Raises:
        EngineError: it is no program, or is damaged.
        HashMismatch: a file was changed since it was verified.
    """
    import executorch.kernels.quantized  # noqa: F401  (registers the look-ups in quantised tables)
    from executorch.runtime import Runtime

    require_program(path)
    try:
        program = Runtime.get().load_program(address(path), data_path=None if tables is None else address(tables))
    except (RuntimeError, ValueError) as error:
        raise EngineError(f"ExecuTorch cannot load {path.name}: {error}") from None
    for file in (path, tables):
        if isinstance(file, OpenFile):
            file.require_unchanged()
    return program


def require_program(file: Path | OpenFile) -> None:
    """Raise :class:`EngineError` unless ``file`` can be read and begins as a program does."""
    opened = file if isinstance(file, OpenFile) else OpenFile(file, EngineError)
    if (start := opened.read(4, 8)) != PROGRAM_MAGIC:
        raise EngineError(f"{file.name} has {start!r} where a program has {PROGRAM_MAGIC!r}: copy the bundle again")


class TowerProgram:
    """A program whose methods are called one at a time, since each packs the weights for itself.

    Args:
        path: of the ``.pte``.
    """

    def __init__(self, path: Path | OpenFile) -> None:
        self._program, self._file = load_program(path), path
        self._open: tuple[str, Any] | None = None

    def constant(self, name: str) -> list[int]:
        """What a method without inputs gives."""
        return [int(value) for value in self._program.load_method(name).execute([])]

    def method(self, name: str) -> Any:
        """The method ``name``, loaded; the one before it is released."""
        if self._open is None or self._open[0] != name:
            self._open = None
            self._open = name, self._program.load_method(name)
        return self._open[1]

    @program_errors()
    def run(self, name: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """All outputs of the method ``name``."""
        outputs = self.method(name).execute([torch.from_numpy(np.ascontiguousarray(x)) for x in inputs])
        return [output.numpy().copy() for output in outputs]

    @program_errors()
    def run_once(self, name: str) -> list[np.ndarray]:
        """As :meth:`run` for a method without inputs, beside the one that is loaded."""
        return [output.numpy().copy() for output in self._program.load_method(name).execute([])]
