"""Stage two of the tests: what needs a Kotlin compiler, packaging tools or an emulated machine. See ``make test-app``.

``G3N_ANDROID`` and ``G3N_ARM64`` may name other folders than ``build/android`` and ``build/arm64``; ``G3N_BUNDLES`` a
folder with bundles that are already compiled.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
OFFLINE = ROOT / "android_app" / "offline"
BIN = Path(sys.executable).parent
TIMEOUT = 3000


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """What a command prints, with ``environment`` added; its failure is the test's, with all it said."""
    words = [str(word) for word in command]
    variables = {**os.environ, **environment}
    result = subprocess.run(words, cwd=cwd, env=variables, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert result.returncode == 0, f"{' '.join(words[:3])} ...\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    return result.stdout


def folder(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable, ROOT / default)).absolute()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two groups of tests, which share no folder that they write to."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group("arm64" if "test_arm64" in item.nodeid else "app"))


@pytest.fixture(scope="session")
def android() -> Path:
    """Where the parts and what is built of them lie."""
    return folder("G3N_ANDROID", "build/android")


@pytest.fixture(scope="session")
def site_packages() -> Path:
    return Path(sysconfig.get_paths()["platlib"])


@pytest.fixture(scope="session")
def jvm_report(android: Path) -> str:
    """The app's plain Kotlin code and its tests, compiled and run."""
    return run(OFFLINE / "build_jvm.sh", android / "parts", android)


@pytest.fixture(scope="session")
def litertlm(site_packages: Path) -> Path:
    """LiteRT-LM's C library."""
    return site_packages / "litert_lm" / "liblitert-lm.so"


@pytest.fixture(scope="session")
def shims(android: Path, site_packages: Path) -> Path:
    """The native side of the host engines."""
    run(OFFLINE / "build_shims.sh", site_packages, android / "shims", PYTHON=sys.executable)
    return android / "shims"


def bundle(name: str, options: Sequence[str]) -> Path:
    exported = folder("G3N_BUNDLES", "build/android/exported")
    exported.mkdir(parents=True, exist_ok=True)
    with FileLock(exported / f"{name}.lock"):
        if not (exported / name / "manifest.json").exists():
            # these tests ask about text alone, and lowering towers takes minutes
            run(BIN / "g3n-compile", *options, "--modalities", "text", "--out", exported / name)
    return exported / name


@pytest.fixture(scope="session")
def nano_int4() -> Path:
    return bundle("nano-host-int4", ["--target", "host", "--size", "nano"])


@pytest.fixture(scope="session")
def nano_fp32() -> Path:
    return bundle("nano-host-fp32", ["--target", "host", "--size", "nano", "--quant", "fp32", "--context", "512"])
