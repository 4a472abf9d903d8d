"""Hostile bytes: flips, cuts, insertions, lengths, parts of another file, and the fields of three formats."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence

from hypothesis import strategies as st

LENGTHS = (
    *(0, 1, 2, 3, 4, 7, 8, 15, 16, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 1 << 24, (1 << 31) - 1, 1 << 31),
    *((1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 16),
)
HEAD = (16, 64, 512, 4096)


@st.composite
def damaged(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of ``seeds`` with a few bytes changed, most often near its beginning, where headers are."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.sampled_from((1, 1, 2, 3, 6)))):
        _edit(draw, data, seeds)
    return bytes(data)


def _edit(draw: st.DrawFn, data: bytearray, seeds: Sequence[bytes]) -> None:
    operation = draw(st.sampled_from(("flip", "flip", "set", "number", "number", "cut", "end", "insert", "splice")))
    at = _place(draw, len(data))
    if operation == "flip" and data:
        data[at] ^= 1 << draw(st.integers(0, 7))
    elif operation == "set" and data:
        data[at] = draw(st.integers(0, 255))
    elif operation == "number":
        width, order = draw(st.sampled_from((2, 4, 4, 8))), draw(st.sampled_from(("little", "little", "big")))
        number = draw(st.sampled_from(LENGTHS) | st.integers(0, (1 << 64) - 1)) % (1 << 8 * width)
        data[at : at + width] = number.to_bytes(width, order)
    elif operation == "cut":
        del data[at : at + draw(st.sampled_from((1, 2, 4, 8, 100, 5000)))]
    elif operation == "end":
        del data[at:]
    elif operation == "insert":
        count = draw(st.sampled_from((1, 2, 4, 8, 100, 5000)))
        data[at:at] = draw(st.sampled_from((b"\0", b"\xff", b"\xc3", b"A", b"[", b"\x1b[2J"))) * count
    elif operation == "splice":
        other = draw(st.sampled_from(seeds))
        begin = _place(draw, len(other))
        part = other[begin : begin + draw(st.sampled_from((4, 64, 1000, 1 << 20)))]
        data[at : at + draw(st.sampled_from((0, len(part))))] = part


def _place(draw: st.DrawFn, length: int) -> int:
    """A position in ``length`` bytes: in the head, anywhere, or near the end."""
    if length < 2:
        return 0
    reach = draw(st.sampled_from((*HEAD, *HEAD, length, length, -64)))
    at = length + draw(st.integers(reach, -1)) if reach < 0 else draw(st.integers(0, min(reach, length) - 1))
    return max(0, at)


@st.composite
def edited_parts(
    draw: st.DrawFn,
    seeds: Sequence[bytes],
    split: Callable[[bytes], list[bytes]],
    join: Callable[[list[bytes]], bytes],
) -> bytes:
    """One of ``seeds`` with some of its parts damaged, left out, repeated, or in another order.

    Args:
        split: the parts of a file.
        join: a file of such parts, with lengths and checksums made right again.
    """
    parts = split(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.sampled_from((1, 1, 2, 3)))):
        if not parts:
            break
        early = draw(st.booleans())  # headers come first
        at = draw(st.integers(0, min(len(parts), 4) - 1 if early else len(parts) - 1))
        operation = draw(st.sampled_from(("damage", "damage", "damage", "leave out", "repeat", "swap")))
        if operation == "damage":
            parts[at] = draw(damaged([parts[at]]))
        elif operation == "leave out":
            del parts[at]
        elif operation == "repeat":
            parts[at:at] = [parts[at]] * draw(st.sampled_from((1, 2, 500)))
        else:
            other = draw(st.integers(0, len(parts) - 1))
            parts[at], parts[other] = parts[other], parts[at]
    return join(parts)


PNG = b"\x89PNG\r\n\x1a\n"


def png_chunks(data: bytes) -> list[bytes]:
    """Name and content of each chunk."""
    out, at = [], len(PNG)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        out.append(data[at + 4 : at + 8 + length])
        at += 12 + length
    return out


def png_of(chunks: list[bytes]) -> bytes:
    """A PNG of ``chunks``, lengths and checksums right."""
    return PNG + b"".join(
        struct.pack(">I", len(c) - 4 & 0xFFFFFFFF) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks
    )


def protobuf_fields(data: bytes) -> list[bytes]:
    """The bytes of each top-level field of a protocol buffer."""
    out, at = [], 0
    while at < len(data):
        begin = at
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            _, at = _varint(data, at)
        elif kind == 2:
            length, at = _varint(data, at)
            at += length
        else:
            at += {1: 8, 5: 4}.get(kind, len(data))
        out.append(data[begin:at])
    return out


def protobuf_of(fields: list[bytes]) -> bytes:
    """A protocol buffer of ``fields``."""
    return b"".join(fields)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            break
    return value, at


def resized_field(field: bytes) -> bytes:
    """A length-delimited field whose content was changed, with its length made right."""
    tag, at = _varint(field, 0)
    if tag & 7 != 2:
        return field
    _, at = _varint(field, at)
    content = field[at:]
    return _encoded(tag) + _encoded(len(content)) + content


def protobuf_resized(fields: list[bytes]) -> bytes:
    """As :func:`protobuf_of`, with the length of each field made right."""
    return b"".join(resized_field(f) for f in fields)


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def riff_chunks(data: bytes) -> list[bytes]:
    """Head and chunks of a RIFF file (WAV, WEBP), each with its length."""
    out, at = [data[:12]], 12
    while at + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, at + 4)
        out.append(data[at : at + 8 + length + length % 2])
        at += 8 + length + length % 2
    return out


def riff_of(chunks: list[bytes]) -> bytes:
    """A RIFF file whose head says how long it is."""
    data = b"".join(chunks)
    return data[:4] + struct.pack("<I", max(0, len(data) - 8) & 0xFFFFFFFF) + data[8:]
