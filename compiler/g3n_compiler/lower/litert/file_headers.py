"""Give a bound model several heads: flatbuffers of some of its signatures each, all in front of the same weights.

The stock engine insists on one signature in a tower's section, and prepares every signature of the decoder's. Sections
of a ``.litertlm`` may overlap, though: here each begins with its own small head, and all end with the weights, which
lie in the file once, as do graphs that several heads have::

    section 0: | head 0 | head 1 | graphs | weights |
    section 1:          | head 1 | graphs | weights |
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from g3n_compiler.lower.litert import flatbuffer

SECTION_ALIGNMENT = 16 << 10
"""Sections of a ``.litertlm`` begin on such a boundary, to be mapped by themselves."""


def room(model: Any, heads: Sequence[Sequence[str]]) -> int:
    """Bytes that are enough for all ``heads``, lists of signatures."""
    return len(flatbuffer.pack_heads(model, heads, SECTION_ALIGNMENT)[0]) if heads else 0


def split_heads(path: Path, heads: Sequence[Sequence[str]]) -> list[int]:
    """Rewrite the head of a file that was bound for ``heads``; returns where each begins.

    The file as a whole is then a model with the signatures of the first of ``heads``, in their order. Without heads it
    stays as it is.
    """
    if not heads:
        return []
    model = flatbuffer.parse_file(path)
    first = min(b.offset for b in flatbuffer.external_buffers(model))
    content, begins = flatbuffer.pack_heads(model, heads, SECTION_ALIGNMENT)
    if len(content) > first:
        raise AssertionError(f"the heads end at byte {len(content)}, the weights begin at {first}: bind with heads")
    with path.open("r+b") as file:
        file.write(content)
    return begins


def find_heads(path: Path) -> list[int]:
    """Where the heads of a file that :func:`split_heads` wrote begin."""
    first = min(b.offset for b in flatbuffer.external_buffers(flatbuffer.parse_file(path)))
    begins = range(0, first, SECTION_ALIGNMENT)
    with path.open("rb") as file:
        return [begin for begin in begins if file.seek(begin) == begin and file.read(8)[4:] == flatbuffer.IDENTIFIER]
