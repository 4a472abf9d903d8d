"""The header of a ``.litertlm``: which sections it lists, and whether they lie in the file, before an engine opens it.

The header is a small flatbuffer; it is read here by hand, with every offset checked, since readers that are generated
from a schema trust what they find, and the engine ends the process at some damages. Format:
``litert_lm_builder.litertlm_header_schema_py_generated``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from g3n_runtime.errors import BundleError, G3nError
from g3n_runtime.open_file import OpenFile

MAGIC = b"LITERTLM"
HEADER_BEGIN, HEADER_END_AT = 32, 24
BLOCK = 16 << 10
"""Sections begin on its multiples, each on the next one after the section before it."""
MOST_HEADER_BYTES, MOST_SECTIONS, MOST_PAIRS, MOST_TEXT = 16 << 20, 256, 64, 4096
AUTHORS, SECTIONS, LIST, ITEMS, BEGIN, END, KIND = 0, 1, 0, 0, 1, 2, 3
KEY, VALUE_KIND, VALUE, TEXT = 0, 1, 2, 0
"""Numbers of the fields of the tables."""
VIEW_KIND, TFLITE_KIND, METADATA_KIND, MOST_KIND, TEXT_KIND = 1, 3, 5, 11, 9
"""Numbers of kinds of sections, and of the kind of a pair whose value is a text."""
TFLITE_MAGIC = b"TFL3"


class _Damaged(Exception):
    """An offset leads out of the header."""


class Section(NamedTuple):
    """Where a section lies in the file, and its kind by the number that the format gives it."""

    begin: int
    end: int
    kind: int


def check_header(file: OpenFile, error: type[G3nError] = BundleError) -> None:
    """See that ``file`` is a ``.litertlm`` whose sections lie in it, and whose models begin as models do.

    Args:
        error: raised when it is not.
    """
    end, sections = read_header(file, error)
    _check_places(file, end, sections, error)


def read_header(file: OpenFile, error: type[G3nError] = BundleError) -> tuple[int, list[Section]]:
    """Where the header ends and what it lists; whether that is in the file only :func:`check_header` sees."""
    start = file.read(0, HEADER_BEGIN)
    if len(start) < HEADER_BEGIN or not start.startswith(MAGIC):
        raise error(f"{file.path} does not begin with {MAGIC.decode()}: it is no .litertlm file")
    (end,) = struct.unpack_from("<Q", start, HEADER_END_AT)
    if not HEADER_BEGIN < end <= min(file.size, MOST_HEADER_BYTES):
        raise error(f"{file.path} says its header ends at byte {end} of {file.size}: copy the file again")
    try:
        return end, _sections(file.read(HEADER_BEGIN, end))
    except _Damaged:
        raise error(f"{file.path} has a header that cannot be read: copy the file again") from None


def _check_places(file: OpenFile, header_end: int, sections: Sequence[Section], error: type[G3nError]) -> None:
    """Sections follow one another to the end of the file; a view is a part of one, to its end."""
    at = header_end
    for begin, end, kind in sections:
        if kind == VIEW_KIND:
            fits = begin % BLOCK == 0 and any(b <= begin < end == e for b, e, k in sections if k == TFLITE_KIND)
        else:
            fits = begin == -(-at // BLOCK) * BLOCK and begin < end <= file.size
            at = end
        if not fits:
            raise error(f"{file.path} has a section at bytes {begin}..{end} of {file.size}: copy the file again")
        if kind == TFLITE_KIND and file.read(begin + 4, begin + 8) != TFLITE_MAGIC:
            raise error(f"{file.path} has no model at byte {begin}, where its header says so: copy the file again")
    if at != file.size or not sections:
        raise error(f"{file.path} has {file.size} bytes, its sections end at {at}: copy the file again")


def _sections(header: bytes) -> list[Section]:
    root = _Table(header, _read(header, "<I", 0))
    for pair in root.table(AUTHORS).tables(LIST, MOST_PAIRS):
        _check_pair(pair)
    found = []
    for entry in root.table(SECTIONS).tables(LIST, MOST_SECTIONS):
        for pair in entry.tables(ITEMS, MOST_PAIRS):
            _check_pair(pair)
        kind = entry.number(KIND, "<B")
        if not 0 < kind <= MOST_KIND:
            raise _Damaged
        found.append(Section(entry.number(BEGIN, "<Q"), entry.number(END, "<Q"), kind))
    return found


def _check_pair(pair: _Table) -> None:
    """A name and a text."""
    pair.check_text(KEY)
    if pair.number(VALUE_KIND, "<B") != TEXT_KIND:
        raise _Damaged
    pair.table(VALUE).check_text(TEXT)


class _Table:
    """A table of a flatbuffer."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data, self._position = data, position
        self._fields = position - _read(data, "<i", position)
        self._names_end = _read(data, "<H", self._fields)
        self._size = _read(data, "<H", self._fields + 2)
        if position % 4 or self._names_end % 2 or self._names_end < 4 or not 4 <= self._size <= len(data) - position:
            raise _Damaged

    def number(self, field: int, form: str) -> int:
        """A field of the table; 0 where it is left out."""
        at = self._offset(field, struct.calcsize(form))
        return _read(self._data, form, self._position + at) if at else 0

    def table(self, field: int) -> _Table:
        return _Table(self._data, self._follow(field))

    def tables(self, field: int, most: int) -> Iterator[_Table]:
        """The tables of a list, which may be left out."""
        if not self._offset(field, 4):
            return
        start = self._follow(field)
        count = _read(self._data, "<I", start)
        if count > most:
            raise _Damaged
        for at in range(start + 4, start + 4 * (count + 1), 4):
            yield _Table(self._data, at + _read(self._data, "<I", at))

    def check_text(self, field: int) -> None:
        """A text of printable ASCII, which ends with a zero byte."""
        start = self._follow(field)
        end = start + 4 + min(_read(self._data, "<I", start), MOST_TEXT)
        text = self._data[start + 4 : end]
        if _read(self._data, "<B", end) or not text.isascii() or not text.decode("ascii").isprintable():
            raise _Damaged

    def _follow(self, field: int) -> int:
        """Where the list, text or table of a field lies, which must be there."""
        at = self._offset(field, 4)
        if not at:
            raise _Damaged
        return self._position + at + _read(self._data, "<I", self._position + at)

    def _offset(self, field: int, size: int) -> int:
        slot = 4 + 2 * field
        at = _read(self._data, "<H", self._fields + slot) if slot < self._names_end else 0
        if at and not 4 <= at <= self._size - size:
            raise _Damaged
        return at


def _read(data: bytes, form: str, position: int) -> int:
    if not 0 <= position <= len(data) - struct.calcsize(form):
        raise _Damaged
    return int(struct.unpack_from(form, data, position)[0])
