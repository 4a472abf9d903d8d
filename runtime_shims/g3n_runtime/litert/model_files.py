"""Models that lie within a ``.litertlm`` as files of their own: LiteRT's Python interface maps whole files only."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from g3n_runtime.engine_cache import EngineCache, Loan
from g3n_runtime.errors import EngineError
from g3n_runtime.open_file import OpenFile

ENGINE = "ai-edge-litert"
WEIGHTS = "weights.xnnpack"
BLOCK = 1 << 24
"""Bytes copied at a time."""


class ModelFiles:
    """Copies of the models in ``held``, kept in the user's cache folder where there is one; keep this while they run.

    Args:
        sections: bytes ``[begin, end)`` of each model.
        cached: whether they may be kept for later loads.

    Raises:
        EngineError: the file does not hold them, or there is no room for them.
    """

    def __init__(self, held: OpenFile, sections: Mapping[str, Sequence[int]], cached: bool = True) -> None:
        self._held = held
        for name, (begin, end) in sections.items():
            if not 0 <= begin < end <= held.size:
                raise EngineError(f"{name} is not at bytes {begin}..{end} of {held.size}: copy the bundle again")
        cache = EngineCache.of(f"{ENGINE}-{version(ENGINE)}", held) if cached else None
        self._loan: Loan | None = None if cache is None else cache.lend(2 * held.size)
        try:
            if self._loan is None:
                temporary = tempfile.TemporaryDirectory(prefix="g3n-models-", ignore_cleanup_errors=True)
                self._close = weakref.finalize(self, temporary.cleanup)
                folder = Path(temporary.name)
            else:
                self._close = weakref.finalize(self, self._loan.close)
                folder = self._loan.folder
            self.paths = {name: folder / f"{name}-{begin}-{end}.tflite" for name, (begin, end) in sections.items()}
            self.weights = None if self._loan is None else folder / WEIGHTS
            """Where XNNPACK may keep packed weights."""
            for name, (begin, end) in sections.items():
                if self._loan is None or not self._loan.has(self.paths[name].name):
                    _copy(held, begin, end, self.paths[name])
        except OSError as reason:
            raise EngineError(
                f"the models of {held.name} cannot be copied out of it ({reason.strerror}): make room"
            ) from None

    def settle(self) -> bool:
        """After the load: as :meth:`g3n_runtime.litert.engine_files.EngineFiles.settle`."""
        self._held.require_unchanged()
        return self._loan is None or self._loan.settle()

    def close(self) -> None:
        self._close()


def _copy(held: OpenFile, begin: int, end: int, path: Path) -> None:
    with path.open("wb") as target:
        for position in range(begin, end, BLOCK):
            target.write(held.read(position, min(position + BLOCK, end)))
