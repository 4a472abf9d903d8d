"""Regular expressions over the names of modules, matched in bounded time whatever an adapter's file holds.

PEFT hands its patterns to ``re``, which can take forever on one such as ``(a*)*b``. Here the set of positions that a
part of the pattern can reach is one integer, so nothing is tried twice, and :class:`Steps` bounds the work.
"""

from __future__ import annotations

import re
from collections.abc import Callable

MAX_PATTERN = 512
MAX_DEPTH = 16
MAX_STEPS = 2_000_000
"""About a second; a pattern of fifty characters takes a hundred steps on one name."""
MAX_REPEATS = 1000

_PLAIN = re.compile(r"[A-Za-z0-9_.]+")
_CLASSES = {"d": str.isdecimal, "w": lambda c: c == "_" or c.isalnum(), "s": str.isspace}
Charset = Callable[[str], bool]
Node = Callable[["_Text", int], int]
"""From the set of positions where a part of the pattern may begin to the set where it may end; bit ``i`` is position
``i``."""


class BadPattern(ValueError):
    """The pattern is malformed, takes too long, or uses what is not supported here; the message says which."""


class Steps:
    """What all patterns of one adapter may cost together."""

    def __init__(self, most: int = MAX_STEPS) -> None:
        self._left = most

    def take(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise BadPattern("takes too long to match")


class NamePattern:
    """A key of ``rank_pattern`` or ``alpha_pattern``, matched as PEFT's ``get_pattern_key`` matches it: the whole name,
    or all of it that follows a dot.

    Supported are characters, ``.``, classes, groups, alternatives, repetitions, ``^`` and ``$``.
    """

    def __init__(self, text: str, steps: Steps) -> None:
        if len(text) > MAX_PATTERN:
            raise BadPattern(f"has {len(text)} characters, at most {MAX_PATTERN} are read")
        self._text, self._steps = text, steps
        # Adapters made by EVA name each module in full, hundreds of times hundreds: these are compared directly.
        self._node = None if _PLAIN.fullmatch(text) else _Parser(text).parse()

    def matches(self, name: str) -> bool:
        if self._node is None:
            tail = name[-len(self._text) :]
            whole = len(name) == len(self._text) or name[: -len(self._text)].endswith(".")
            return whole and all(p in (c, ".") for p, c in zip(self._text, tail, strict=False))
        text = _Text(name, self._steps)
        return bool(self._node(text, text.starts) >> len(name) & 1)


class _Text:
    """A name that is matched, and where in it each kind of character is."""

    def __init__(self, text: str, steps: Steps) -> None:
        self.text, self.steps = text, steps
        self.end = 1 << len(text)
        self.starts = 1 | sum(1 << i + 1 for i, c in enumerate(text) if c == ".")
        self._where: dict[Charset, int] = {}

    def where(self, charset: Charset) -> int:
        if charset not in self._where:
            self._where[charset] = sum(1 << i for i, c in enumerate(self.text) if charset(c))
        return self._where[charset]


def _one(charset: Charset) -> Node:
    def node(text: _Text, at: int) -> int:
        text.steps.take()
        return (at & text.where(charset)) << 1

    return node


def _sequence(parts: list[Node]) -> Node:
    def node(text: _Text, at: int) -> int:
        for part in parts:
            if not at:
                break
            at = part(text, at)
        return at

    return node


def _either(parts: list[Node]) -> Node:
    def node(text: _Text, at: int) -> int:
        ends = 0
        for part in parts:
            ends |= part(text, at)
        return ends

    return node


def _repeat(part: Node, least: int, most: int | None) -> Node:
    def node(text: _Text, at: int) -> int:
        for _ in range(least):
            text.steps.take()
            at = part(text, at)
        reached, done = at, least
        while at and (most is None or done < most):
            text.steps.take()
            at = part(text, at) & ~reached
            reached, done = reached | at, done + 1
        return reached

    return node


def _begin(text: _Text, at: int) -> int:
    return at & 1


def _end(text: _Text, at: int) -> int:
    return at & text.end


class _Parser:
    """The grammar of Python's ``re`` without flags, lookaround, back references and possessive repetition."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def parse(self) -> Node:
        node = self._alternatives(0)
        if self._at < len(self._text):
            raise BadPattern("has a parenthesis that closes nothing")
        return node

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        if not (char := self._peek()):
            raise BadPattern("ends in the middle")
        self._at += 1
        return char

    def _alternatives(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise BadPattern(f"nests groups more than {MAX_DEPTH} deep")
        options: list[list[Node]] = [[]]
        while (char := self._peek()) and char != ")":
            if char == "|":
                self._at += 1
                options.append([])
            else:
                options[-1].append(self._repeated(depth))
        parts = [_sequence(option) for option in options]
        return parts[0] if len(parts) == 1 else _either(parts)

    def _repeated(self, depth: int) -> Node:
        if self._peek() in "*+?{":
            raise BadPattern("repeats nothing")
        node = self._atom(depth)
        bounds = re.compile(r"\*|\+|\?|\{(\d{0,4})(,?)(\d{0,4})\}").match(self._text, self._at)
        if bounds is None:
            if self._peek() == "{":
                raise BadPattern("uses a brace that repeats nothing")
            return node
        self._at = bounds.end()
        if bounds[0][0] == "{":
            if not bounds[1] and not bounds[3]:
                raise BadPattern("uses a brace that repeats nothing")
            least = int(bounds[1] or 0)
            most = least if not bounds[2] else int(bounds[3]) if bounds[3] else None
            if max(least, most or 0) > MAX_REPEATS or (most is not None and most < least):
                raise BadPattern(f"repeats {bounds[0]} times")
        else:
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[bounds[0]]
        if self._peek() == "?":  # lazy: whether there is a match does not depend on it
            self._at += 1
        if self._peek() and self._peek() in "*+?{":
            raise BadPattern("repeats a repetition")
        return _repeat(node, least, most)

    def _atom(self, depth: int) -> Node:
        char = self._take()
        if char == "(":
            if self._peek() == "?":
                if not self._text.startswith("?:", self._at):
                    raise BadPattern("uses a group that begins with (?, of which only (?: is supported")
                self._at += 2
            node = self._alternatives(depth + 1)
            if self._take() != ")":
                raise BadPattern("has a group that is not closed")
            return node
        if char in "^$":
            return _begin if char == "^" else _end
        if char == ".":
            return _one(_any)
        if char == "[":
            return _one(self._class())
        return _one(self._escape() if char == "\\" else _equals(char))

    def _escape(self) -> Charset:
        char = self._take()
        if (kind := _CLASSES.get(char.lower())) is not None:
            return kind if char.islower() else _negated(kind)
        if char.isalnum():
            raise BadPattern(f"uses \\{char}, which is not supported")
        return _equals(char)

    def _class(self) -> Charset:
        negated = self._peek() == "^"
        self._at += negated
        parts: list[Charset] = []
        first = True
        while (char := self._take()) != "]" or first:
            first = False
            single = self._escape() if char == "\\" else _equals(char)
            if self._peek() != "-" or self._text[self._at + 1 : self._at + 2] in ("]", ""):
                parts.append(single)
                continue
            self._at += 1
            last = self._take()
            if "\\" in (char, last) or last < char:
                raise BadPattern("has a range of characters that is not supported")
            parts.append(_between(char, last))
        return _negated(_any_of(parts)) if negated else _any_of(parts)


def _any(char: str) -> bool:
    return char != "\n"


def _equals(wanted: str) -> Charset:
    return lambda char: char == wanted


def _between(first: str, last: str) -> Charset:
    return lambda char: first <= char <= last


def _negated(kind: Charset) -> Charset:
    return lambda char: not kind(char)


def _any_of(kinds: list[Charset]) -> Charset:
    return lambda char: any(kind(char) for kind in kinds)
