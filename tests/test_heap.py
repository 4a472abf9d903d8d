"""Freed heap goes back to the system."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from g3n_compiler.heap import release_free_memory

MIB = 1 << 20


def anonymous() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_many_small_objects_took_is_given_back() -> None:
    release_free_memory()
    before = anonymous()
    # Large enough for malloc itself (Python's own pools end at 512 bytes), small enough for its heap.
    kept = [bytes(2000) for _ in range(50_000)]
    full = anonymous()
    last = kept[-1]
    del kept
    release_free_memory()
    assert full - before > 80 * MIB
    assert anonymous() - before < 20 * MIB
    assert len(last) == 2000
