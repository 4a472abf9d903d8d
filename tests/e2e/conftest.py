"""Bundles of nano, compiled once for the whole session by the very command that the README names."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


def compiled(workspace: Path, command: str, bundle: str) -> Path:
    result = run(command, workspace)
    assert result.returncode == 0, result.stderr
    return workspace / bundle


@pytest.fixture(scope="session")
def nano_int4(workspace: Path) -> Path:
    return compiled(workspace, README_COMMAND, "exported/nano-host-int4")


@pytest.fixture(scope="session")
def nano_fp32(workspace: Path) -> Path:
    return compiled(workspace, f"g3n-compile --quant fp32 --context 512 {TEXT_ALONE}", "exported/nano-host-fp32")
