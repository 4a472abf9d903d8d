"""The chat template in a ``.litertlm``, which the engine renders: read from the file itself, not from a manifest.

It is a field of the protocol buffer ``LlmMetadata``, which is a section of the file.
"""

from __future__ import annotations

from collections.abc import Iterator

from g3n_runtime.errors import BundleError
from g3n_runtime.litert.header import METADATA_KIND, read_header
from g3n_runtime.open_file import OpenFile
from g3n_runtime.template_check import check_template

MAX_METADATA_BYTES = 16 << 20
TEMPLATE = 7
"""The field of the template in the protocol buffer."""


def check_engine_template(file: OpenFile) -> None:
    """Raise :class:`BundleError` where a template of a ``.litertlm`` could run away."""
    for template in read_templates(file):
        check_template(template, BundleError)


def read_templates(file: OpenFile) -> list[str]:
    """Every chat template in the file: an engine may take the first or the last of several.

    Raises:
        BundleError: the file is no ``.litertlm``, or is damaged.
    """
    templates = []
    for begin, end, kind in read_header(file)[1]:
        if kind != METADATA_KIND:
            continue
        if not 0 <= begin <= end <= file.size or end - begin > MAX_METADATA_BYTES:
            raise BundleError(f"{file.path} has its metadata at bytes {begin}..{end} of {file.size}: copy it again")
        try:
            templates += [value.decode("utf-8") for value in _texts(file.read(begin, end), TEMPLATE)]
        except ValueError as error:  # also bytes that are not UTF-8
            raise BundleError(f"{file.path} is damaged ({error}): copy it again") from None
    return templates


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
            raise ValueError("its metadata is not a protocol buffer")
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
