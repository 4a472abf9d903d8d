"""How the system caches a file that is mapped and read row by row."""

import os
from pathlib import Path

from g3n_runtime.open_file import OpenFile, address


def drop_from_page_cache(path: Path | OpenFile) -> None:
    """Have a data file read afresh as its rows are touched, where the system knows how.

    Linux caches a file that was written or read from end to end, as a hash check does, in pieces of up to 2 MB, and
    gives whoever maps it the whole piece with a row. Read row by row it is cached in small pieces.
    """
    if hasattr(os, "posix_fadvise"):
        with address(path).open("rb") as file:
            # What is not on the disk yet cannot be dropped.
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
