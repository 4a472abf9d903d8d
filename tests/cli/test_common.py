"""What the verbs share."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import os, sys
from g3n_compiler.cli.common import quiet_toolchains
with quiet_toolchains():
    os.write(2, b"noise from C++\\n")
    print("our message", file=sys.stderr)
os.write(2, b"heard again\\n")
"""


def stderr_of(**environment: str) -> str:
    command = [sys.executable, "-c", SCRIPT]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | environment).stderr


def test_native_noise_is_silenced_and_ours_is_not() -> None:
    assert stderr_of() == "our message\nheard again\n"


def test_verbose_lets_it_through() -> None:
    assert "noise from C++" in stderr_of(G3N_VERBOSE="1")
