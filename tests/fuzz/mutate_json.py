"""Hostile JSON: edits of a real document's values and keys, and what no writer of JSON would write."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.mutate_bytes import damaged

LONG = "a" * 100_000
NUMBERS = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e400000", "9" * 5000, "-" + "9" * 5000, "0." + "9" * 5000),
    *("0", "-0", "-0.0", "1", "-1", "2", "3", "7", "0.5", "1.5", "1e-320", "1e18", "1e308", "-1e308", "100000"),
    *("1000000000", "2147483647", "2147483648", "-2147483649", "4294967296", "9223372036854775807"),
    *("9223372036854775808", "18446744073709551616", "1e9", "1E1000000000", "256", "65536", "1" + "0" * 400),
)
STRINGS = (
    *(
        "",
        " ",
        "x",
        "null",
        "12",
        "NaN",
        "\0",
        "a\0b",
        "\x1b[2J\x1b]0;title\x07",
        "[bold]x[/bold] [/x]",
        "\u202e\u2066",
    ),
    *("../../etc/passwd", "/dev/zero", "/etc/passwd", "..", ".", "a/b", "~/x", "C:\\x", "\\\\host\\x", "a" * 300, LONG),
    *("{prompt}", "{0}", "{prompt.__class__}", "{", "%s%n%d", "{{ 7 * 7 }}", "{% for x in y %}", "<bos>", "\ufeff"),
    *("é\u0301" * 50, "\U0001f4a5", "\u2028", "<end_of_turn>", "\r\n", "'; exit 1; '", "$(exit 1)", "-rf", "--help"),
)
OTHERS = (
    *("null", "true", "false", "[]", "{}", "[[]]", "[{}]", "[null]", '{"":null}', '{"a":{"b":[]}}', "[0]", "[0,0]"),
    *('["a",1,null,[],{}]', '"\\ud800"', '"\\udfff\\ud800"', '"\\u0000"', "[" * 70 + "]" * 70, "[" * 100_000),
    *(
        "[" * 5000 + "]" * 5000,
        '{"a":' * 3000 + "1" + "}" * 3000,
        "[" + ",".join(["0"] * 50_000) + "]",
        "01",
        "+1",
        ".",
    ),
    *("0x10", "1_000", "undefined", "'x'", "", "//x", '{"a":1,"a":2}', '{"__class__":{}}', "[1,2,3,4,5,6,7,8,9,10]"),
    *(
        '{"height":1,"width":1}',
        "[-1]",
        '["\\ud800"]',
        "[1e999]",
        "[9223372036854775808]",
        '{"\\ud800":1}',
        '{"\\u0000":1}',
    ),
)
HOSTILE = (*NUMBERS, *(json.dumps(text) for text in STRINGS), *OTHERS)
OPERATIONS = ("near", "near", "near", "borrow", "borrow", "delete", "repeat", "rename", "wrap", "move")
"""Beside a hostile value: "near" and "borrow" keep the kind, so that the document contradicts itself only."""
_OPEN, _CLOSE = "\ue000", "\ue001"


class _Document:
    """A JSON value in which some values are texts to be written as they are."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self._raw: list[str] = []

    def raw(self, text: str) -> str:
        """What stands for ``text`` until it is written."""
        self._raw.append(text)
        return f"{_OPEN}{len(self._raw) - 1}{_CLOSE}"

    def text(self) -> str:
        out = json.dumps(self.value, ensure_ascii=False)
        for number, text in enumerate(self._raw):
            out = out.replace(f'"{_OPEN}{number}{_CLOSE}"', text)
        return out

    def change(self, path: list[Any], change: Callable[[Any], Any]) -> None:
        """Replace what lies at ``path``; what is not on the way is shared with the seed."""

        def walk(value: Any, rest: list[Any]) -> Any:
            if not rest:
                return change(value)
            copy = value.copy()
            copy[rest[0]] = walk(copy[rest[0]], rest[1:])
            return copy

        self.value = walk(self.value, path)


@st.composite
def edited_json(draw: st.DrawFn, seeds: list[Any]) -> bytes:
    """One of ``seeds`` with one to three values changed, as UTF-8; now and then damaged as text."""
    document = _Document(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
        _edit(draw, document)
    out = document.text().encode("utf-8", "surrogatepass")
    return draw(damaged([out])) if draw(st.integers(0, 11)) == 11 else out


def _place(draw: st.DrawFn, value: Any) -> tuple[list[Any], Any]:
    """A place in a document, most often a leaf, and what lies there."""
    path: list[Any] = []
    while isinstance(value, dict | list) and value and draw(st.integers(0, 6)):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        path.append(keys[draw(st.integers(0, len(keys) - 1))])
        value = value[path[-1]]
    return path, value


def _edit(draw: st.DrawFn, document: _Document) -> None:
    path, value = _place(draw, document.value)
    operation = draw(st.sampled_from(("hostile",) * 6 + OPERATIONS))
    if operation == "hostile" or not path:
        text = draw(st.sampled_from(HOSTILE))
        document.change(path, lambda _: document.raw(text))
    elif operation == "near" and type(value) in (int, float):
        factor, step = draw(st.sampled_from((1, -1, 2, 0.5, 1000, 1e6))), draw(st.integers(-2, 2))
        document.change(path, lambda v: type(v)(v * factor + step))
    elif operation == "near" and isinstance(value, str):
        text = draw(st.sampled_from(STRINGS))
        at = draw(st.integers(0, len(value)))
        document.change(path, lambda v: v[:at] + text + v[at:])
    elif operation == "borrow":
        alike = [v for v in (_place(draw, document.value)[1] for _ in range(4)) if type(v) is type(value)]
        document.change(path, lambda v: alike[-1] if alike else v)
    elif operation == "delete":
        document.change(path[:-1], lambda v: _without(v, path[-1]))
    elif operation == "repeat":
        count = draw(st.sampled_from((2, 3, 300)))
        document.change(path[:-1], lambda v: _repeated(document, v, path[-1], count))
    elif operation == "rename":
        name = draw(st.sampled_from(STRINGS))
        document.change(path[:-1], lambda v: {**_without(v, path[-1]), name: value} if isinstance(v, dict) else v[::-1])
    elif operation == "move":
        document.change(path[:-1], lambda v: value)
    else:
        document.change(path, lambda v: draw(st.sampled_from(([v], {"x": v}, [v, v], str(v)[:1000]))))


def _without(container: Any, key: Any) -> Any:
    copy = container.copy()
    del copy[key]
    return copy


def _repeated(document: _Document, container: Any, key: Any, count: int) -> Any:
    if isinstance(container, list):
        return [*container[:key], *[container[key]] * count, *container[key + 1 :]]
    members = [*container.items(), (key, container[key])]
    try:
        text = ",".join(f"{json.dumps(k)}:{json.dumps(v)}" for k, v in members)
    except ValueError:  # what was repeated holds half of a character already
        return container
    return container if _OPEN in text or "\\ue000" in text else document.raw("{" + text + "}")
