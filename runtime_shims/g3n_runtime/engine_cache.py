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
import stat
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from g3n_runtime.cache_folder import cache_folder
from g3n_runtime.errors import G3nError
from g3n_runtime.open_file import OPEN_FILES, Identity, OpenFile, identity
from g3n_runtime.reading import read_json_object, read_text

ENGINES, IN_USE = "engines", "in-use"
TAG = "CACHEDIR.TAG"
TAG_TEXT = (
    "Signature: 8a477f597d28d172789f06886806bc55\n# What engines made of models, kept by g3n: it can be deleted.\n"
)
"""The mark that backup programs know too."""
MOST_BYTES = 12 << 30
"""All kept files together; beyond it those that were not used for longest are deleted."""
MOST_RECORD_BYTES = 4096
SPARE_BYTES = 64 << 20
"""Room that is left on the disk when an engine fills its cache, which is at most as large as the model."""
BLOCK = 8 << 20
LOCK_SECONDS = 5.0
THREADS = 2


class _Unusable(G3nError):
    """A kept file is not what its record says."""


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
        return cache_folder(ENGINES, self.engine, self.model) if _marked() else None

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
            with _locked(in_use):
                _clear(in_use)
                folder = Path(tempfile.mkdtemp(dir=in_use))
                lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lent = {names(name): kept_file for name in _names(kept) if (kept_file := self._verified(kept, name))}
            for name, kept_file in lent.items():
                (folder / name).symlink_to(OPEN_FILES / str(kept_file.descriptor))
            loan = Loan(self, folder, lock, lent)
            if not lent and not _has_room(folder, room):
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
        with contextlib.suppress(OSError, _Unusable):
            file = _KeptFile(path, name)
            file.digest = file.hash()
            record = {"engine": self.engine, "model": self.model, "name": name, "bytes": file.size}
            with _locked(in_use):
                data = kept / f"{file.digest}.bin"
                _remove(data)
                os.link(path, data)
                data.chmod(0o400)
                partial = path.with_name(f"{path.name}.record")
                partial.write_text(json.dumps(record | {"blake3": file.digest}) + "\n", encoding="utf-8")
                _remove(_record(kept, name))
                partial.replace(_record(kept, name))
                _forget_others(kept)
                _bound(kept.parents[1])

    def forget(self, name: str) -> None:
        """Delete what is kept as ``name``."""
        if (kept := self.folder()) is not None:
            with contextlib.suppress(OSError):
                _remove(_record(kept, name))
                _forget_others(kept)

    def _verified(self, kept: Path, name: str) -> _KeptFile | None:
        """The file kept as ``name``, open, if it is what its record says; otherwise it is deleted."""
        try:
            if _record(kept, name).is_symlink():
                raise _Unusable(name)
            record = read_json_object(_record(kept, name), _Unusable, MOST_RECORD_BYTES)
            wanted = {"engine": self.engine, "model": self.model, "name": name}
            digest = record.get("blake3")
            if any(record.get(key) != value for key, value in wanted.items()) or not _is_digest(digest):
                raise _Unusable(name)
            file = _KeptFile(kept / f"{digest}.bin", name)
            if file.size != record.get("bytes") or file.hash() != digest:
                raise _Unusable(name)
            file.digest = str(digest)
            os.utime(_record(kept, name))
            return file
        except (OSError, _Unusable):
            self.forget(name)
            return None


class Loan:
    """The folder of one load; a kill leaves it to the next load to remove."""

    def __init__(self, cache: EngineCache, folder: Path, lock: int, lent: dict[str, _KeptFile]) -> None:
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


class _KeptFile:
    """A regular file of this user, open until nobody uses this object; never reached through a link."""

    def __init__(self, path: Path, name: str) -> None:
        self.name, self.digest = name, ""
        self.descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        self._close = weakref.finalize(self, os.close, self.descriptor)
        status = os.fstat(self.descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise _Unusable(name)
        self.size, self._identity = status.st_size, identity(status)

    def hash(self) -> str:
        """BLAKE3: at 3.7 GB/s a core it adds a quarter of what SHA-256 would to each load."""
        hasher = blake3(max_threads=THREADS)
        buffer = memoryview(bytearray(min(BLOCK, self.size or 1)))
        position = 0
        while count := os.preadv(self.descriptor, [buffer], position):
            hasher.update(buffer[:count])
            position += count
        return str(hasher.hexdigest())

    def unchanged(self) -> bool:
        """Whether the content is what was hashed; another link to the file changes its times as well."""
        now: Identity = identity(os.fstat(self.descriptor))
        return now == self._identity or (now[2] == self.size and self.hash() == self.digest)


def processor() -> str:
    """The processor's kind and abilities, which decide how an engine packs weights."""
    abilities = platform.machine() + platform.processor()
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
        abilities += next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()}-{hashlib.sha256(abilities.encode()).hexdigest()[:8]}"


@contextlib.contextmanager
def _locked(in_use: Path) -> Iterator[None]:
    """Hold the lock over the names of all kept files; ``OSError`` if somebody else does for long."""
    descriptor = os.open(
        in_use.with_name("lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600
    )
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def _marked() -> bool:
    """Whether the folder of all engines is ours: it carries our mark, or is empty and gets it."""
    engines = cache_folder(ENGINES)
    if engines is None:
        return False
    try:
        tag = engines / TAG
        if not tag.is_file() and not any(engines.iterdir()):
            tag.write_text(TAG_TEXT, encoding="utf-8")
        return read_text(tag, MOST_RECORD_BYTES, _Unusable) == TAG_TEXT
    except (OSError, _Unusable):
        return False


def _clear(in_use: Path) -> None:
    """Remove the folders of loads whose process has ended."""
    for folder in in_use.iterdir():
        if folder.is_symlink() or not folder.is_dir():
            _remove(folder)
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _has_room(folder: Path, room: int) -> bool:
    """Whether ``room`` bytes can be written, under a quota too: LiteRT-LM ends the process when its cache cannot."""
    if shutil.disk_usage(folder).free < room + SPARE_BYTES:
        return False
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            if room and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, room)
        except OSError:
            return False
    return True


def _give_back(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


def _names(kept: Path) -> list[str]:
    """The names for which there are records."""
    return sorted(path.name.removesuffix(".json") for path in kept.iterdir() if path.name.endswith(".json"))


def _record(kept: Path, name: str) -> Path:
    return kept / f"{name}.json"


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")


def _remove(path: Path) -> None:
    """Remove whatever lies at ``path``; a link, not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _forget_others(kept: Path) -> None:
    """Remove what no record of the folder names."""
    named = {f"{_digest_in(_record(kept, name))}.bin" for name in _names(kept)}
    for path in kept.iterdir():
        if not path.name.endswith(".json") and path.name not in named:
            _remove(path)


def _digest_in(record: Path) -> str:
    try:
        return str(read_json_object(record, _Unusable, MOST_RECORD_BYTES).get("blake3"))
    except _Unusable:
        return ""


def _bound(engines: Path) -> None:
    """Delete the models' folders that were not used for longest, until all have at most :data:`MOST_BYTES`."""
    folders = [model for engine in engines.iterdir() if engine.name != IN_USE for model in _folders(engine)]
    used = {folder: _last_use(folder) for folder in folders}
    sizes = {folder: sum(path.lstat().st_size for path in folder.iterdir()) for folder in folders}
    total = sum(sizes.values())
    for folder in sorted(folders, key=lambda f: used[f])[:-1]:
        if total <= MOST_BYTES:
            break
        shutil.rmtree(folder, ignore_errors=True)
        total -= sizes[folder]


def _folders(folder: Path) -> list[Path]:
    if folder.is_symlink() or not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]


def _last_use(folder: Path) -> float:
    return max((path.lstat().st_mtime for path in folder.iterdir()), default=0.0)
