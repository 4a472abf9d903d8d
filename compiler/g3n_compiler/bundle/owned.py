"""Decide whether a folder may be replaced: only if g3n wrote every file in it and nobody has changed one.

A record lists the files with their sizes and hashes; a file that the record does not list must prove itself, see
:class:`Extra`.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from g3n_compiler.checkpoint.identity import FileIdentity
from g3n_compiler.errors import NotOurs
from g3n_runtime.terminal import printable_line

REMEDY = "move it away or choose another --out"
BLOCK = 1 << 20


class Digest(NamedTuple):
    """The size and hash that a listed file must have."""

    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Extra:
    """How a file that no record can list (for example because it was made from the record) proves what it is."""

    most: int
    """The most bytes that it can have."""
    read: int
    """How many of its bytes are read."""
    is_ours: Callable[[bytes, int], bool]
    """Called with those bytes and the file's size."""


def _no_extra(path: str) -> Extra | None:
    return None


class Listing(NamedTuple):
    """What a record says is beside it."""

    files: Mapping[str, Digest]
    extra: Callable[[str], Extra | None] = _no_extra
    """By path in the folder; returns ``None`` for a file that cannot be ours."""
    folders: frozenset[str] = frozenset()
    """Folders that are allowed although no listed file is in them."""


@dataclass(frozen=True)
class Kind:
    """A kind of folder that g3n writes; ``record`` is the file that lists the others."""

    noun: str
    record: str
    read: Callable[[Path], Listing]
    """Reads the record in a folder; raises :class:`NotOurs` if it is not ours or was changed."""


@dataclass(frozen=True)
class Account:
    """A folder in which every file was proven to be ours when this was made."""

    folder: Path
    files: Mapping[str, FileIdentity]
    """By path in the folder."""
    folders: tuple[str, ...]
    """The folders in it, each before its content."""

    def at(self, folder: Path) -> Account:
        """The same account after the folder was renamed."""
        return replace(self, folder=folder)

    def require_unchanged(self) -> None:
        """Raise :class:`NotOurs` if anything was added to the folder or changed since."""
        for path, status in _walk(self.folder):
            if stat.S_ISDIR(status.st_mode):
                if path not in self.folders:
                    raise _foreign(self.folder, path, "appeared meanwhile")
            elif self.files.get(path) != FileIdentity.of(status):
                raise _foreign(self.folder, path, "changed meanwhile" if path in self.files else "appeared meanwhile")

    def remove(self) -> None:
        """Remove the accounted files by name; anything else that appeared stays, and the folder with it."""
        for path in self.files:
            (self.folder / path).unlink(missing_ok=True)
        for path in (*reversed(self.folders), ""):
            try:
                (self.folder / path).rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                raise NotOurs(
                    f"{printable_line(str(self.folder / path))} holds files that appeared while it was being removed: "
                    "they were left in place"
                ) from None


def account(folder: Path, kind: Kind) -> Account:
    """Prove that everything in ``folder`` is ours.

    Raises:
        NotOurs: it is not; the message names the first file that g3n did not write, or that was changed.
    """
    try:
        return _account(folder, kind)
    except OSError as error:
        name = printable_line(str(error.filename or folder))
        raise NotOurs(f"{name} cannot be read ({error.strerror}), so it may not be g3n's: {REMEDY}") from None


def _account(folder: Path, kind: Kind) -> Account:
    listing = kind.read(folder)
    known = {kind.record, *listing.files}
    parents = {str(parent) for path in known for parent in PurePosixPath(path).parents} | listing.folders
    extras: dict[str, Extra] = {}
    files: dict[str, FileIdentity] = {}
    folders: list[str] = []
    device = folder.lstat().st_dev
    for path, status in _walk(folder):  # names, kinds and sizes first, because they are cheap
        if status.st_dev != device:
            raise _foreign(folder, path, "lies on another file system")
        if stat.S_ISDIR(status.st_mode):
            if path not in parents:
                raise _foreign(folder, path, f"is not part of the {kind.noun}")
            folders.append(path)
            continue
        extra = None if path in known else listing.extra(path)
        if not stat.S_ISREG(status.st_mode) or (path not in known and extra is None):
            raise _foreign(folder, path, f"is not part of the {kind.noun}")
        if extra is not None:
            extras[path] = extra
        if path in listing.files and status.st_size != listing.files[path].nbytes:
            raise _foreign(folder, path, f"has {status.st_size} bytes, not the {listing.files[path].nbytes} written")
        files[path] = FileIdentity.of(status)
    for path, identity in files.items():
        if path in listing.files:
            if _sha256(folder / path, identity) != listing.files[path].sha256:
                raise _foreign(folder, path, "was changed since g3n wrote it")
        elif path in extras and not _proves_itself(folder / path, extras[path], identity):
            raise _foreign(folder, path, f"is not part of the {kind.noun}")
    found = Account(folder, files, tuple(folders))
    found.require_unchanged()
    return found


def _walk(folder: Path, inside: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Everything in ``folder`` with its relative path, a folder before its content; links are not followed."""
    with os.scandir(folder / inside) as entries:
        for entry in entries:
            path = f"{inside}{entry.name}"
            status = entry.stat(follow_symlinks=False)
            yield path, status
            if stat.S_ISDIR(status.st_mode):
                yield from _walk(folder, f"{path}/")


def _foreign(folder: Path, path: str, why: str) -> NotOurs:
    return NotOurs(f"{printable_line(str(folder))} is not only g3n's: {printable_line(path)} in it {why}: {REMEDY}")


def _open(path: Path, identity: FileIdentity) -> int:
    """Open the file that was seen as ``identity``; a link, a pipe or another file in its place is refused."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if FileIdentity.of(os.fstat(fd)) != identity:
        os.close(fd)
        raise _foreign(path.parent, path.name, "changed while it was read")
    return fd


def _sha256(path: Path, identity: FileIdentity) -> str:
    with os.fdopen(_open(path, identity), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _proves_itself(path: Path, extra: Extra, identity: FileIdentity) -> bool:
    if identity.size > extra.most:
        return False
    with os.fdopen(_open(path, identity), "rb") as file:
        return extra.is_ours(file.read(extra.read), identity.size)
