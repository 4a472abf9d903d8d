"""Nano for the target ``pixel``, compiled where there is a driver for LiteRT's GPU delegate: see ``make test-gpu``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from g3n_runtime.litert.vulkan import KIT, KIT_VARIABLE, find_driver

REQUIRED = "G3N_REQUIRE_GPU"
"""In the environment: no driver is a failure, and no reason to skip."""
BIN = Path(sys.executable).parent
TIMEOUT = 1800


@pytest.fixture(scope="session")
def driver() -> dict[str, str]:
    """What the environment of a child process must say to find the driver from any folder."""
    if find_driver() is None:
        if os.environ.get(REQUIRED):
            pytest.fail("no driver: make gpu-kit")
        pytest.skip("no Vulkan driver: make test-gpu brings one")
    return {KIT_VARIABLE: str(KIT.absolute())} if KIT.is_dir() and KIT_VARIABLE not in os.environ else {}


def run(command: list[str], cwd: Path, driver: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A console script as a user runs it."""
    return subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=cwd,
        env=os.environ | driver,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory, driver: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The compile of the bundle: ``cwd`` is its ``args[-1]``'s parent."""
    folder = tmp_path_factory.mktemp("gpu") / "bundle"
    command = "g3n-compile --target pixel --require-gpu --context 512 --prefill-lengths 32 --image-sizes 256"
    words = [*command.split(), "--modalities", "text,vision", "--out", str(folder)]
    result = run(words, folder.parent, driver)
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="session")
def bundle(compiled: subprocess.CompletedProcess[str]) -> Path:
    return Path(compiled.args[-1])
