"""What an engine ends by a signal is an error of the command, and the child never outlives it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil
import pytest

from g3n_runtime.errors import EngineError

PROGRAM = """
import os, signal, sys, time
import click
from g3n_compiler.cli.guard import GuardedCommand

@click.command(cls=GuardedCommand)
@click.argument("what")
def main(what):
    if what == "wait":
        print(os.getpid(), flush=True)
        time.sleep(60)
    elif what.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, what))
    sys.exit(int(what))

main()
"""


def run(what: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM, what], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGBUS", "SIGABRT"])
def test_a_crash_is_one_line_and_the_engines_exit_code(name: str) -> None:
    done = run(name)
    assert done.returncode == EngineError.exit_code
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and name in done.stderr


def test_other_endings_are_passed_on() -> None:
    assert run("0").returncode == 0
    assert run("61").returncode == 61
    assert run("SIGTERM").returncode == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_child_ends_with_the_command(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM, "wait"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert child != process.pid
        process.send_signal(number)
        assert process.wait(10) == -number
    end = time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, "the child is still there"
        time.sleep(0.05)
