"""Names from elsewhere never control the terminal that they are shown on."""

from __future__ import annotations

import pytest

from g3n_runtime.terminal import printable, printable_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("\x9b31m", "\\x9b31m"),
        ("abc\rdef\x08", "abc\\rdef\\x08"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\ud800", "\\ud800"),
        ("größe\tα\n", "größe\tα\n"),
    ],
)
def test_control_characters_are_shown(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_name_stays_on_its_line() -> None:
    assert printable_line("a\n\tb") == "a\\n\\tb"
