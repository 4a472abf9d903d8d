"""What an engine makes of a model and keeps between loads: used only while it is, byte for byte, what the engine made.

Below :func:`g3n_runtime.cache_folder.cache_folder`::

    engines/ENGINE/MODEL/NAME.json      the record of a file: whose it is, its size and its BLAKE3 digest
    engines/ENGINE/MODEL/DIGEST.bin     the file
    engines/in-use/*                    a folder for each load that is going on
    engines/CACHEDIR.TAG                marks what lies here as ours to delete

``ENGINE`` names the engine, its version and the processor's abilities, ``MODEL`` is the SHA-256 of the model's file. An
engine never works on a kept file under its kept name. For each load it gets a folder of its own, which holds links to
the kept files that were just verified, opened already; what it puts there is kept once the load has succeeded. The
record is written last, so what a kill leaves half-written is nobody's. Whatever does not fit its record is deleted and
made again.

What the check cannot see: the record lies beside the file, so it finds damage and mix-ups, and no forgery by somebody
with the user's own rights, who can replace both. Such a person can also change a file in place after it was mapped.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from g3n_runtime.cache_folder import cache_folder
from g3n_runtime.engine_cache_folder import ENGINES, IN_USE, bound, clear, has_room, locked, marked
from g3n_runtime.kept_file import KeptFile, forget_others, names_in, open_kept, record_of, remove
from g3n_runtime.open_file import OPEN_FILES, OpenFile


@dataclass(frozen=True)
class EngineCache:
    """What ``engine`` keeps of one model."""

    engine: str
    model: str

    @classmethod
    def of(cls, engine: str, held: OpenFile) -> EngineCache:
        """The cache of ``held`` in ``engine`` (name and version); a file that nobody hashed has one for its state."""
        state = held.verified or "unverified-" + hashlib.sha256(repr(held.identity).encode()).hexdigest()
        return cls(f"{engine}-{processor()}", state)

    def folder(self) -> Path | None:
        """Where the files are kept, if they can be."""
        return cache_folder(ENGINES, self.engine, self.model) if marked() else None

    def lend(self, room: int, names: Callable[[str], str] = str) -> Loan | None:
        """A folder for one load, with links to the files that are kept and right.

        Args:
            room: bytes that the disk must have for what is not there yet.
            names: what the engine calls the file that is kept as a name.

        Returns:
            ``None`` where nothing can be kept: no home, no room, or a folder that others can change.
        """
        kept = self.folder()
        in_use = None if kept is None else cache_folder(ENGINES, IN_USE)
        if kept is None or in_use is None or not OPEN_FILES.is_dir():
            return None
        try:
            with locked(in_use):
                clear(in_use)
                folder = Path(tempfile.mkdtemp(dir=in_use))
                lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lent = {names(name): kept_file for name in names_in(kept) if (kept_file := self._verified(kept, name))}
            for name, kept_file in lent.items():
                (folder / name).symlink_to(OPEN_FILES / str(kept_file.descriptor))
            loan = Loan(self, folder, lock, lent)
            if not lent and not has_room(folder, room):
                loan.close()
                return None
            return loan
        except OSError:
            return None

    def keep(self, path: Path, name: str) -> None:
        """Keep the file at ``path``, which lies in a loan's folder, as ``name``, if there is room for it."""
        kept = self.folder()
        in_use = None if kept is None else cache_folder(ENGINES, IN_USE)
        if kept is None or in_use is None:
            return
        with contextlib.suppress(OSError):
            file = KeptFile(path, name)
            file.digest = file.hash()
            record = {**self._owner(name), "bytes": file.size, "blake3": file.digest}
            with locked(in_use):
                data = kept / f"{file.digest}.bin"
                remove(data)
                os.link(path, data)
                data.chmod(0o400)
                partial = path.with_name(f"{path.name}.record")
                partial.write_text(json.dumps(record) + "\n", encoding="utf-8")
                remove(record_of(kept, name))
                partial.replace(record_of(kept, name))
                forget_others(kept)
                bound(kept.parents[1])

    def forget(self, name: str) -> None:
        """Delete what is kept as ``name``."""
        if (kept := self.folder()) is not None:
            with contextlib.suppress(OSError):
                remove(record_of(kept, name))
                forget_others(kept)

    def _verified(self, kept: Path, name: str) -> KeptFile | None:
        """The file kept as ``name``, open, if it is what its record says; otherwise it is deleted."""
        file = open_kept(kept, name, self._owner(name))
        if file is None:
            self.forget(name)
        return file

    def _owner(self, name: str) -> dict[str, str]:
        """The members of a record that say whose file it is."""
        return {"engine": self.engine, "model": self.model, "name": name}


class Loan:
    """The folder of one load; a kill leaves it to the next load to remove."""

    def __init__(self, cache: EngineCache, folder: Path, lock: int, lent: dict[str, KeptFile]) -> None:
        self.folder = folder
        self._cache, self._lent = cache, lent
        self._close = weakref.finalize(self, _give_back, folder, lock)

    def has(self, name: str) -> bool:
        """Whether a kept file was lent under the engine's ``name``."""
        return name in self._lent

    def settle(self, names: Callable[[str], str] = str) -> bool:
        """Keep what the engine put here, now that the load has succeeded.

        Args:
            names: what a file that the engine gave a name is kept as.

        Returns:
            Whether the files that were lent are still those that were verified; one that is not is deleted, and what
            the engine made of it must not be used.
        """
        right = True
        for kept_file in self._lent.values():
            if not kept_file.unchanged():
                self._cache.forget(kept_file.name)
                right = False
        for path in sorted(self.folder.iterdir()):
            if right and path.is_file() and not path.is_symlink():
                self._cache.keep(path, names(path.name))
        return right

    def close(self) -> None:
        """Remove the folder; what the engine has mapped stays mapped."""
        self._close()


def _give_back(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


def processor() -> str:
    """The processor's kind and abilities, which decide how an engine packs weights."""
    abilities = platform.machine() + platform.processor()
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
        abilities += next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()}-{hashlib.sha256(abilities.encode()).hexdigest()[:8]}"
