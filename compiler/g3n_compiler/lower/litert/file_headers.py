"""Put several flatbuffer headers in front of one copy of a bound model's weights.

The stock engine accepts only one signature in a tower's section, and prepares every signature in the decoder's section.
Sections of a ``.litertlm`` may overlap, though: each section here begins with its own header, which lists some of the
model's signatures, and all of them end with the same weights. The weights, and graphs that several headers share, are
in the file once::

    section 0: | header 0 | header 1 | graphs | weights |
    section 1:            | header 1 | graphs | weights |
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from g3n_compiler.lower.litert import flatbuffer

SECTION_ALIGNMENT = 16 << 10
"""Sections of a ``.litertlm`` begin on this boundary, so that each can be mapped by itself."""


def header_bytes(model: Any, signature_groups: Sequence[Sequence[str]]) -> int:
    """Bytes that the headers for all ``signature_groups`` fit into."""
    return len(flatbuffer.pack_headers(model, signature_groups, SECTION_ALIGNMENT)[0]) if signature_groups else 0


def write_file_headers(path: Path, signature_groups: Sequence[Sequence[str]]) -> list[int]:
    """Write a header for each of ``signature_groups`` to a file that was bound for them; returns where each begins.

    The file as a whole is then a model with the signatures of the first group, in that order. Without groups the file
    does not change.
    """
    if not signature_groups:
        return []
    model = flatbuffer.parse_file(path)
    first = min(b.offset for b in flatbuffer.external_buffers(model))
    content, begins = flatbuffer.pack_headers(model, signature_groups, SECTION_ALIGNMENT)
    if len(content) > first:
        raise AssertionError(
            f"the headers end at byte {len(content)} but the weights begin at {first}: bind with signature_groups"
        )
    with path.open("r+b") as file:
        file.write(content)
    return begins


def find_file_headers(path: Path) -> list[int]:
    """Where the headers that :func:`write_file_headers` wrote begin."""
    first = min(b.offset for b in flatbuffer.external_buffers(flatbuffer.parse_file(path)))
    begins = range(0, first, SECTION_ALIGNMENT)
    with path.open("rb") as file:
        return [begin for begin in begins if file.seek(begin) == begin and file.read(8)[4:] == flatbuffer.IDENTIFIER]
