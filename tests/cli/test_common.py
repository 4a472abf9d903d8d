"""What the verbs share."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from g3n_compiler.cli.common import reports_errors

SCRIPT = """
import os, sys
from g3n_compiler.cli.common import quiet_toolchains
from g3n_compiler.cli.show import show
with quiet_toolchains(*map(bool, sys.argv[1:])):
    os.write(2, b"noise from C++\\n")
    print("noise from Python", file=sys.stderr)
    show("our message", err=True)
os.write(2, b"heard again\\n")
print("and from Python", file=sys.stderr)
class AtTheEnd:
    def __init__(self):
        self.write = os.write
    def __del__(self):
        self.write(2, b"noise at the end\\n")
kept = AtTheEnd()
"""


def stderr_of(*arguments: str, **environment: str) -> str:
    command = [sys.executable, "-c", SCRIPT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | environment).stderr


def test_noise_is_silenced_to_the_end_and_our_words_are_not() -> None:
    assert stderr_of() == "our message\nheard again\nand from Python\n"


@pytest.mark.parametrize(("arguments", "environment"), [(["yes"], {}), ([], {"G3N_VERBOSE": "1"})])
def test_verbose_lets_it_through(arguments: list[str], environment: dict[str, str]) -> None:
    said = stderr_of(*arguments, **environment)
    assert {"noise from C++", "noise from Python", "our message", "noise at the end"} <= set(said.splitlines())


def test_bytes_that_are_no_text_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chat may be fed from a file of any kind; no engine takes half of a surrogate pair."""
    for errors in ("strict", "surrogateescape"):
        data = io.BytesIO(b"a\xffb\n")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(data, encoding="utf-8", errors=errors))
        assert reports_errors(lambda: sys.stdin.readline())() == "a\ufffdb\n"
