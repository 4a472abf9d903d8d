"""Ctrl-C ends a process whose code swallows it."""

from __future__ import annotations

import subprocess
import sys

SWALLOWING = """
import os, signal, time
from g3n_compiler.cli.interrupt import insistent_interrupt
with insistent_interrupt(0.2):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        time.sleep(30)
print("went on")
"""
PASSING = """
import os, signal, time
from g3n_compiler.cli.interrupt import insistent_interrupt
try:
    with insistent_interrupt(0.2):
        os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    time.sleep(0.5)
    print("cleaned up")
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_swallowed_interrupt_ends_the_process() -> None:
    done = run(SWALLOWING)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_interrupt_that_arrives_is_left_alone() -> None:
    done = run(PASSING)
    assert (done.returncode, done.stdout) == (0, "cleaned up\n")
