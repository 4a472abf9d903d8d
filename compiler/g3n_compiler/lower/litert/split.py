"""Give each signature of a bound model a flatbuffer of its own, all in front of the same weights.

The stock engine insists on one signature in a section. Sections of a ``.litertlm`` may overlap, though: here each
begins with its own small header, and all end with the weights, which lie in the file once::

    section 0: | header 0 | header 1 | weights |
    section 1:            | header 1 | weights |
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from g3n_compiler.lower.litert import flatbuffer

SECTION_ALIGNMENT = 16 << 10
"""Sections of a ``.litertlm`` begin on such a boundary, to be mapped by themselves."""


def room(model: Any) -> int:
    """Bytes that are enough for a header of each signature."""
    header = len(flatbuffer.pack(model))
    return len(model.signatureDefs) * (header + SECTION_ALIGNMENT)


def split_signatures(path: Path, names: Sequence[str]) -> dict[str, int]:
    """Rewrite the head of a file that was bound ``separate``; returns where each signature's header begins.

    The file as a whole is then a model with the first of ``names`` as its only signature.
    """
    head = flatbuffer.pack(flatbuffer.parse_file(path))
    begins: dict[str, int] = {}
    position = 0
    with path.open("r+b") as file:
        for name in names:
            begins[name] = position
            position = _write(file, head, name, position)
    return begins


def _write(file: Any, head: bytes, name: str, begin: int) -> int:
    """Write ``name``'s header at ``begin``; returns where the next one may begin."""
    model = flatbuffer.isolate(flatbuffer.parse(head), name)
    first = min(b.offset for b in flatbuffer.external_buffers(flatbuffer.parse(head)))
    for buffer in flatbuffer.external_buffers(model):
        buffer.offset -= begin
    content = flatbuffer.pack(model)
    end = begin + len(content)
    if end > first:
        raise AssertionError(f"the headers end at byte {end}, the weights begin at {first}: bind with separate=True")
    file.seek(begin)
    file.write(content)
    return -(-end // SECTION_ALIGNMENT) * SECTION_ALIGNMENT
