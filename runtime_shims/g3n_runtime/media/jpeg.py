"""What a JPEG file says of its scans, read before a decoder sees it.

A scan of a few bytes may touch every pixel, so a small file of many scans keeps a decoder busy for hours; and a picture
that comes in several scans is held whole by the decoder, however small it is to be read.
Format: ITU-T T.81, annex B.
"""

from __future__ import annotations

import re
from typing import NamedTuple

START = b"\xff\xd8"
_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_SCAN, _END = 0xDA, 0xD9
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers that no length follows: TEM, the restarts, SOI."""


class Scans(NamedTuple):
    """``number`` of scans; ``buffered`` where the decoder must hold the whole picture until the last one."""

    number: int
    buffered: bool


def scans(data: bytes) -> Scans:
    """The scans of a JPEG file's first picture, found as libjpeg finds them; as many as there are in a broken one."""
    count, components, buffered = 0, 0, False
    at = len(START)
    while found := _MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == _END:
            break
        if marker in _ALONE:
            continue
        segment = data[at : at + 8]
        if marker in _FRAMES and len(segment) == 8:
            components = segment[7]
            buffered = buffered or marker in _PROGRESSIVE
        if marker == _SCAN and len(segment) > 2:
            count += 1
            buffered = buffered or segment[2] < components
        at += max(2, int.from_bytes(segment[:2], "big"))
    return Scans(count, buffered)
