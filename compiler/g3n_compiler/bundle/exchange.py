"""Put a folder in another's place in one step, where the system can, so that one of them is always there."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

_AT_FDCWD = -100
_LINUX_NOREPLACE, _LINUX_EXCHANGE = 1, 2
_MACOS_SWAP, _MACOS_EXCL = 2, 4
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV}


def swap(one: Path, other: Path) -> bool:
    """Exchange two names atomically; ``False`` if the system or the file system cannot."""
    return _rename(one, other, _LINUX_EXCHANGE, _MACOS_SWAP)


def place(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target``; raises :class:`FileExistsError` if anything is there."""
    if _rename(source, target, _LINUX_NOREPLACE, _MACOS_EXCL):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    source.rename(target)


def _rename(source: Path, target: Path, linux: int, macos: int) -> bool:
    """Rename with a flag; ``False`` if the flag is not supported here."""
    library = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(source), os.fsencode(target)
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        result = library.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], linux)
    elif sys.platform == "darwin" and hasattr(library, "renamex_np"):
        result = library.renamex_np(*paths, macos)
    else:
        return False
    if result == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(target))
