"""Bundles of nano, compiled once for the whole session by the very command that the README names."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

BIN = Path(sys.executable).parent
TIMEOUT = 2400
README_COMMAND = "g3n-compile --target host --size nano --runtime both"
TEXT_ALONE = "--modalities text"
"""For bundles of which nothing about towers is asked: lowering those takes minutes."""


def run(command: str, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """A console script as a user runs it, from the virtual environment of these tests."""
    program, *arguments = shlex.split(command)
    words = [str(BIN / program), *arguments]
    return subprocess.run(words, cwd=cwd, input=stdin, capture_output=True, text=True, timeout=TIMEOUT, check=False)


def noise(stderr: str) -> list[str]:
    """Lines that name a source file and its line, as engines' and toolchains' logs do, and our messages never."""
    return [line for line in stderr.splitlines() if re.search(r"\.(cc|cpp|py|h):\d+\]", line)]


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all workers of a run, so that what one has compiled the others find.

    ``G3N_BUNDLES`` names a folder ``exported`` in which bundles are to be left for the app's tests.
    """
    if "G3N_BUNDLES" in os.environ:
        folder = Path(os.environ["G3N_BUNDLES"]).parent
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "workspace"
    folder.mkdir(exist_ok=True)
    return folder


def compiled(workspace: Path, command: str, bundle: str) -> Path:
    """``bundle``, compiled by the first worker that asks for it; what the command printed lies in ``printed.txt``."""
    directory = workspace / bundle
    with FileLock(workspace / f"{directory.name}.lock"):
        if not directory.exists():
            result = run(command, workspace)
            assert result.returncode == 0, result.stderr
            assert not noise(result.stderr), result.stderr
            if command == README_COMMAND:
                (workspace / "printed.txt").write_text(result.stdout, encoding="utf-8")
    return directory


@pytest.fixture(scope="session")
def nano_int4(workspace: Path) -> Path:
    return compiled(workspace, README_COMMAND, "exported/nano-host-int4")


@pytest.fixture(scope="session")
def nano_fp32(workspace: Path) -> Path:
    single = "--single-pte stock,rows"
    command = f"g3n-compile --quant fp32 --context 512 --prefill-lengths 128 --tools {single} {TEXT_ALONE}"
    return compiled(workspace, command, "exported/nano-host-fp32")
