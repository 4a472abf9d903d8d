"""What LiteRT-LM is given for one load: a path to the model that was verified, and a folder for its packed weights.

The engine takes paths only, wants the model's to end in ``.litertlm``, and names the file of its packed weights after
that path, the model's size and the time of its last change. So it gets a link of our own to the open file.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from importlib.metadata import version
from pathlib import Path

from g3n_runtime.engine_cache import EngineCache, Loan
from g3n_runtime.open_file import OpenFile

MODEL = "model.litertlm"
ENGINE = "litert-lm"


class EngineFiles:
    """The files of one load of ``held``; keep this until the engine is closed.

    Args:
        cached: whether what the engine packs may be kept for later loads.
    """

    def __init__(self, held: OpenFile, cached: bool = True) -> None:
        self._held = held
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        status = os.fstat(held.descriptor)
        self._stamp = f"_{int(status.st_mtime)}_{status.st_size}"
        cache = EngineCache.of(f"{ENGINE}-{version(ENGINE)}", held) if cached else None
        self._loan: Loan | None = None if cache is None else cache.lend(held.size, self._stamped)
        self.cache: Path | None = None if self._loan is None else self._loan.folder
        self.model = self._link()

    def settle(self) -> bool:
        """After the load: see that the model is the one that was verified, and keep what the engine packed.

        Returns:
            Whether the engine got the packed weights that it should; otherwise it must not be used.

        Raises:
            HashMismatch: the model's file was changed.
        """
        self._held.require_unchanged(by_path=self.model == self._held.path)
        return self._loan is None or self._loan.settle(self._unstamped)

    def close(self) -> None:
        for folder in (self._loan and self._loan.close, self._folder and self._folder.cleanup):
            if folder:
                folder()

    def _link(self) -> Path:
        """A link to the open file; the file's own path where there can be none."""
        if self._held.address == self._held.path:
            return self._held.path
        try:
            if self._loan is None:
                self._folder = tempfile.TemporaryDirectory(prefix="g3n-model-", ignore_cleanup_errors=True)
                weakref.finalize(self, self._folder.cleanup)
            folder = Path(self._folder.name) if self._folder else self._loan.folder  # type: ignore[union-attr]
            link = folder / MODEL
            link.symlink_to(self._held.address)
        except OSError:
            return self._held.path
        return link

    def _stamped(self, name: str) -> str:
        """What the engine calls a file for this very model: its stamp comes after the model's name."""
        return MODEL + self._stamp + name.removeprefix(MODEL)

    def _unstamped(self, name: str) -> str:
        return name.replace(self._stamp, "", 1)
