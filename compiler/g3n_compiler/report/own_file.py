"""A file at a name that the user chose: written over only if it is ours, unchanged, by a mark with its hash at its end.

Readers of SVG and PNG pass over what follows the picture.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from g3n_compiler.durable import rename_durably, sync_file
from g3n_compiler.errors import NotOurs
from g3n_runtime.reading import read_bytes
from g3n_runtime.terminal import printable_line

MAX_BYTES = 64 << 20
_MARK = re.compile(rb"<!-- g3n-inspect ([0-9a-f]{64}) -->\n")
_MARK_BYTES = 86


def require_writable(path: Path) -> None:
    """Raises :class:`NotOurs` if anything lies at ``path`` that g3n did not write, or not like that."""
    if not os.path.lexists(path) or (path.is_symlink() and not path.exists()):
        return
    refused = f"{printable_line(str(path))} exists and is not as g3n wrote it: move it away or choose another --plot"
    data = read_bytes(path, MAX_BYTES, NotOurs)
    mark = _MARK.fullmatch(data[-_MARK_BYTES:])
    if mark is None or mark[1].decode() != hashlib.sha256(data[:-_MARK_BYTES]).hexdigest():
        raise NotOurs(refused)


def write_marked(path: Path, data: bytes) -> None:
    """Write ``data`` and its mark to ``path``, or to where a link there leads, in one step.

    Raises:
        NotOurs: as :func:`require_writable`; nothing is changed then.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    with partial.open("xb") as file:  # a file of somebody else's with that name stays
        file.write(data + f"<!-- g3n-inspect {hashlib.sha256(data).hexdigest()} -->\n".encode())
    try:
        sync_file(partial)
        require_writable(path)
        rename_durably(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
