"""Typed fields of a checkpoint's JSON: each is read once, with its type, its range and its default.

Fields that nobody asks for are never looked at, so additions by a later ``transformers`` cannot stop a compile. An
absent field means what it means to ``transformers``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from g3n_compiler.errors import CheckpointError, WrongModel
from g3n_runtime.reading import read_json_object
from g3n_runtime.terminal import printable_line

MAX_CONFIG_BYTES = 8 << 20
"""A thousand times the size of the published ``config.json``."""


def read_json(path: Path, error: type[CheckpointError] = CheckpointError) -> dict[str, Any]:
    """A JSON object that describes a checkpoint, such as ``config.json``; numbers in it may be infinite."""
    return read_json_object(path, error, MAX_CONFIG_BYTES, infinite=True)


def present(path: Path) -> bool:
    """Whether something is at ``path``; what cannot be looked up, or is a link to nothing, is an error, not absent."""
    try:
        if not path.exists():
            if path.is_symlink():
                raise CheckpointError(
                    f"{path} is a link to a file that is not there: fetch it again, or copy the folder with its links "
                    "followed (cp -rL)"
                )
            return False
        return True
    except OSError as reason:
        raise CheckpointError(f"{path} cannot be looked up ({reason.strerror})") from None


class Section:
    """An object in a JSON file whose fields are read by name.

    Args:
        value: the value at this place in the file.
        where: the place, as messages name it: ``config.json's text_config``.
        error: raised for a field with a wrong value.
    """

    def __init__(self, value: Any, where: str, error: type[CheckpointError] = WrongModel) -> None:
        self.where = where
        self._error = error
        if not isinstance(value, dict):
            raise error(f"{where} is {show(value)}, expected an object")
        self._fields: Mapping[str, Any] = value

    def __contains__(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._fields.get(name) is not None

    def raw(self, name: str) -> Any:
        """The field as it is; ``None`` if it is absent."""
        return self._fields.get(name)

    def names(self) -> tuple[str, ...]:
        """The fields that are not null."""
        return tuple(name for name in self._fields if name in self)

    def has(self, name: str) -> bool:
        """Whether the field is there, be it null."""
        return name in self._fields

    def wrong(self, name: str, expected: str) -> CheckpointError:
        """The error that says what ``name`` is and what was expected."""
        found = f"has {printable_line(name)} {show(self.raw(name))}" if name in self._fields else f"has no {name}"
        return self._error(f"{self.where} {found}, expected {expected}")

    def section(self, name: str) -> Section:
        """A nested object; empty if it is absent or null."""
        value = self.raw(name)
        return Section({} if value is None else value, f"{self.where}'s {name}", self._error)

    def part(self, name: str) -> Section:
        """As :meth:`section`, for a part that stands for its defaults if it is absent, which messages then say."""
        if name in self:
            return self.section(name)
        found = "null" if name in self._fields else "absent"
        return Section({}, f"{self.where}'s {name} ({found}, so all of it is transformers' default)", self._error)

    def integer(self, name: str, default: int, low: int, high: int, null: bool = False) -> int:
        """An integer from ``low`` to ``high``; with ``null``, null also means the default."""
        value = self._value(name, default, null)
        if not _is_integer(value, low, high):
            raise self.wrong(name, f"an integer of {low} to {high}{self._without(name, default)}")
        return int(value)

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A finite number from ``low`` to ``high``."""
        value = self._value(name, default, False)
        if not _is_number(value, low, high):
            raise self.wrong(name, f"a number of {low:g} to {high:g}{self._without(name, default)}")
        return float(value)

    def flag(self, name: str, default: bool, null: bool = True) -> bool:
        """True or false; with ``null``, null also means the default."""
        value = self._value(name, default, null)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def choice(self, name: str, default: str, choices: Collection[str]) -> str:
        """One of ``choices``; null means the default."""
        value = self._value(name, default, True)
        if not isinstance(value, str) or value not in choices:
            raise self.wrong(name, " or ".join(choices))
        return value

    def integers(self, name: str, default: tuple[int, ...], count: int, low: int, high: int) -> tuple[int, ...]:
        """A list of ``count`` integers."""
        value = self._value(name, default, False)
        if not isinstance(value, list | tuple) or len(value) != count:
            raise self.wrong(name, f"a list of {count} integers")
        self._each(name, value, all(_is_integer(v, low, high) for v in value), f"integers of {low} to {high}")
        return tuple(value)

    def integer_for_each(self, name: str, default: int, count: int, low: int, high: int) -> tuple[int, ...]:
        """One integer for all ``count``, or a list with one for each."""
        value = self._value(name, default, False)
        values = value if isinstance(value, list) else [value] * count
        if len(values) != count:
            raise self.wrong(name, f"an integer, or {count} of them")
        self._each(name, values, all(_is_integer(v, low, high) for v in values), f"integers of {low} to {high}")
        return tuple(values)

    def number_for_each(
        self, name: str, default: tuple[float, ...], count: int, low: float, high: float
    ) -> tuple[float, ...]:
        """One number for all ``count``, or a list with one for each; null means the default."""
        value = self._value(name, list(default), True)
        values = value if isinstance(value, list) else [value] * count
        if len(values) != count:
            raise self.wrong(name, f"a number, or {count} of them")
        self._each(name, values, all(_is_number(v, low, high) for v in values), f"numbers of {low:g} to {high:g}")
        return tuple(float(v) for v in values)

    def choice_for_each(
        self, name: str, default: tuple[str, ...], count: int, choices: Collection[str]
    ) -> tuple[str, ...]:
        """A list of ``count`` values out of ``choices``; null means the default."""
        value = self._value(name, list(default), True)
        if not isinstance(value, list) or len(value) != count:
            raise self.wrong(name, f"a list of {count}")
        self._each(name, value, all(isinstance(v, str) and v in choices for v in value), " or ".join(choices))
        return tuple(value)

    def _without(self, name: str, default: Any) -> str:
        """What an absent field means, for the message about a null or absent one."""
        return "" if name in self else f" (a config without this field means {default})"

    def _value(self, name: str, default: Any, null: bool) -> Any:
        value = self._fields.get(name, default)
        return default if value is None and null else value

    def _each(self, name: str, values: Collection[Any], holds: bool, expected: str) -> None:
        if not holds:
            kinds = ", ".join(dict.fromkeys(show(v) for v in list(values)[:64]))
            raise self._error(f"{self.where} has {name} with {kinds[:200]}, expected {expected}")


def show(value: Any) -> str:
    """A value in a few words that are safe to print."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(value[:60])
    text = str(value)
    return text if len(text) <= 30 else f"{text[:12]}... of {len(text)} digits"


def _is_integer(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: Any, low: float, high: float) -> bool:
    """NaN is in no range, and an integer too large for a float is compared exactly."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
