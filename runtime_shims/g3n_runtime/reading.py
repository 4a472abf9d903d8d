"""Read files that may be hostile or broken: regular files only, a bounded size, and one kind of error for all faults.

Every reader of a checkpoint, a bundle or a user's file goes through here, so that a folder, a pipe, a device, a name
with a NUL, bytes that are not UTF-8 or JSON that Python cannot hold ends in the caller's own error.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections import Counter
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

from g3n_runtime.errors import G3nError

MAX_JSON_BYTES = 64 << 20
"""Larger than any published ``tokenizer.json`` (33 MB), the largest JSON that a checkpoint has."""
MAX_JSON_DEPTH = 64
"""Far below Python's recursion limit, so that whatever walks the value cannot overflow the stack either."""
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_regular(path: Path, error: type[G3nError], missing: type[G3nError] | None = None) -> BufferedReader:
    """Open a regular file, or a link to one, for reading.

    Args:
        error: raised when ``path`` cannot be read or is no regular file. A pipe is never waited for.
        missing: raised instead of ``error`` when there is nothing at ``path``.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise (missing or error)(f"{path} is missing") from None
    except ValueError:
        raise error(f"{str(path)!r} is not a file name") from None
    except OSError as reason:
        raise error(f"{path} cannot be read ({reason.strerror})") from None
    kind = stat.S_IFMT(os.fstat(fd).st_mode)
    if kind != stat.S_IFREG:
        os.close(fd)
        raise error(f"{path} is {_KINDS.get(kind, 'not a regular file')}, expected a file")
    try:
        os.pread(fd, 1, 0)  # some files of /proc are regular, and cannot be read
    except OSError as reason:
        os.close(fd)
        raise error(f"{path} cannot be read ({reason.strerror})") from None
    return os.fdopen(fd, "rb")


def read_bytes(path: Path, most: int, error: type[G3nError], missing: type[G3nError] | None = None) -> bytes:
    """All bytes of a regular file that has at most ``most``; errors as in :func:`open_regular`."""
    with open_regular(path, error, missing) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            data = file.read(most + 1) if size <= most else b""
        except OSError as reason:
            raise error(f"{path} cannot be read ({reason.strerror})") from None
    if size > most or len(data) > most:  # a file of /proc has no size until it is read
        raise error(f"{path} has {max(size, len(data))} bytes, at most {most} are read")
    return data


def read_text(path: Path, most: int, error: type[G3nError], missing: type[G3nError] | None = None) -> str:
    """As :func:`read_bytes`, decoded from UTF-8; line ends stay as they are."""
    try:
        return read_bytes(path, most, error, missing).decode("utf-8")
    except UnicodeDecodeError as reason:
        raise error(f"{path} is not UTF-8 text ({reason.reason} at byte {reason.start})") from None


def read_json(
    path: Path,
    error: type[G3nError],
    most: int = MAX_JSON_BYTES,
    missing: type[G3nError] | None = None,
    infinite: bool = False,
) -> Any:
    """The value of a JSON file; see :func:`parse_json`."""
    return parse_json(read_bytes(path, most, error, missing), str(path), error, infinite)


def read_json_object(
    path: Path,
    error: type[G3nError],
    most: int = MAX_JSON_BYTES,
    missing: type[G3nError] | None = None,
    infinite: bool = False,
) -> dict[str, Any]:
    """As :func:`read_json` for a file whose value must be an object."""
    value = read_json(path, error, most, missing, infinite)
    if not isinstance(value, dict):
        raise error(f"{path} holds a JSON {type(value).__name__}, expected an object")
    return value


def parse_json(
    text: str | bytes, what: str, error: type[G3nError], infinite: bool = False, unique: bool = False
) -> Any:
    """The value of a JSON text.

    Args:
        what: names the text in a message.
        error: raised for anything that is not UTF-8 JSON, is nested deeper than :data:`MAX_JSON_DEPTH`, or holds a
            number that is no finite float, an integer of thousands of digits, or half of a surrogate pair.
        infinite: ``NaN``, ``Infinity`` and floats beyond the range are taken as Python's own reader takes them, for
            files with fields that nobody here reads; whoever reads a number must bound it.
        unique: an object that holds a name twice is refused, not read as its last value.
    """
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        numbers: dict[str, Any] = {} if infinite else {"parse_constant": _refuse_constant, "parse_float": _finite}
        value = json.loads(decoded, object_pairs_hook=_unique if unique else None, **numbers)
        if "\\u" in decoded:  # only an escape can bring half of a surrogate pair in
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise error(f"{what} is not JSON that can be read (nested too deeply)") from None
    except UnicodeError as reason:
        raise error(f"{what} is not UTF-8 JSON ({reason})") from None
    except ValueError as reason:  # also json.JSONDecodeError, and integers beyond Python's limit of digits
        raise error(f"{what} is not JSON that can be read ({reason})") from None
    if _depth(value) > MAX_JSON_DEPTH:
        raise error(f"{what} is nested deeper than {MAX_JSON_DEPTH} levels")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the name {twice[:80]!r} appears twice")
    return value


def _depth(value: Any) -> int:
    """Levels of lists and objects, found level by level so that no nesting can overflow the stack."""
    level, depth = [value], 0
    while level := [v for v in level if type(v) is dict or type(v) is list]:
        level = [child for v in level for child in (v.values() if type(v) is dict else v)]
        depth += 1
    return depth
