"""The chat template in a ``.litertlm``, which the engine renders: read from the file itself, not from a manifest.

Format: a FlatBuffer header that lists sections, one of which is the protocol buffer ``LlmMetadata``.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from g3n_runtime.errors import BundleError
from g3n_runtime.reading import open_regular
from g3n_runtime.template import check_template

MAGIC = b"LITERTLM"
HEADER_END, HEADER_BEGIN = 24, 32
MAX_HEADER_BYTES = 16 << 20
MAX_METADATA_BYTES = 16 << 20
MAX_SECTIONS = 4096
LLM_METADATA = 5
"""The kind of the section, as the header numbers it."""
TEMPLATE = 7
"""The field of the template in the protocol buffer."""


def check_engine_template(path: Path) -> None:
    """Raise :class:`BundleError` where a template of a ``.litertlm`` could run away."""
    for template in read_templates(path):
        check_template(template, BundleError)


def read_templates(path: Path) -> list[str]:
    """Every chat template in the file: an engine may take the first or the last of several.

    Raises:
        BundleError: the file is no ``.litertlm``, or is damaged.
    """
    with open_regular(path, BundleError) as file:
        length = os.fstat(file.fileno()).st_size
        try:
            start = file.read(HEADER_BEGIN)
            if len(start) < HEADER_BEGIN or not start.startswith(MAGIC):
                raise BundleError(f"{path} does not begin with {MAGIC.decode()}: it is no .litertlm file")
            (end,) = struct.unpack_from("<Q", start, HEADER_END)
            if not HEADER_BEGIN < end <= min(length, MAX_HEADER_BYTES):
                raise ValueError(f"its header ends at byte {end} of {length}")
            templates = []
            for first, last in _metadata_sections(file.read(end - HEADER_BEGIN)):
                if not 0 <= first <= last <= length or last - first > MAX_METADATA_BYTES:
                    raise ValueError(f"its metadata lies at bytes {first} to {last} of {length}")
                file.seek(first)
                templates += [value.decode("utf-8") for value in _texts(file.read(last - first), TEMPLATE)]
        except (ValueError, struct.error, OSError) as error:  # also bytes that are not UTF-8
            raise BundleError(f"{path} is damaged ({error}): copy it again") from None
    return templates


def _metadata_sections(header: bytes) -> Iterator[tuple[int, int]]:
    """Where the sections of metadata begin and end in the file."""
    (root,) = struct.unpack_from("<I", header)
    listed = _follow(header, _field(header, root, 1))
    vector = _follow(header, _field(header, listed, 0)) if listed else 0
    if not vector:
        return
    (count,) = struct.unpack_from("<I", header, vector)
    if count > MAX_SECTIONS:
        raise ValueError(f"it lists {count} sections")
    for i in range(count):
        table = _follow(header, vector + 4 + 4 * i)
        kind = _field(header, table, 3)
        if kind and header[kind : kind + 1] == bytes([LLM_METADATA]):
            begin, end = (_field(header, table, slot) for slot in (1, 2))
            yield (
                struct.unpack_from("<Q", header, begin)[0] if begin else 0,
                struct.unpack_from("<Q", header, end)[0] if end else 0,
            )


def _field(data: bytes, table: int, slot: int) -> int:
    """Where a field of a FlatBuffer table lies; 0 where it is absent."""
    (back,) = struct.unpack_from("<i", data, table)
    offsets = table - back
    if offsets < 0:
        raise ValueError("its header points outside itself")
    (size,) = struct.unpack_from("<H", data, offsets)
    at = 4 + 2 * slot
    if at + 2 > size:
        return 0
    (offset,) = struct.unpack_from("<H", data, offsets + at)
    return table + offset if offset else 0


def _follow(data: bytes, at: int) -> int:
    return at + int(struct.unpack_from("<I", data, at)[0]) if at else 0


def _texts(message: bytes, wanted: int) -> Iterator[bytes]:
    """The values of a field of texts in a protocol buffer."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind, number = key & 7, key >> 3
        if kind == 0:
            _, at = _varint(message, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        elif kind == 2:
            size, at = _varint(message, at)
            if number == wanted:
                yield message[at : at + size]
            at += size
        else:
            raise ValueError("its metadata is no protocol buffer")
    if at > len(message):
        raise ValueError("its metadata is cut off")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("its metadata is cut off")
        value |= (message[at] & 127) << shift
        at += 1
        if message[at - 1] < 128:
            return value, at
    raise ValueError("its metadata has a number without end")
