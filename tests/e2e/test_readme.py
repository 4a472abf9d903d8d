"""Every command of the README runs; those that need what is not here are refused as the README says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import README_COMMAND, run

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OTHERS = ("elastic", "calibrate", "custom-host")
COMMANDS = [c for c in re.findall(r"^\$ (g3n-.+)$", README, re.MULTILINE) if not any(word in c for word in OTHERS)]
"""Those of the elastic bundle run in tests/elastic, those of the calibrated one in test_calibrated."""
ELSEWHERE = re.findall(r"^(g3n-[^#\n]+)", README, re.MULTILINE)
"""Need Google's weights or an adapter; checked for their options only."""
MAKE = re.findall(r"^make (\w+)", README, re.MULTILINE)


def test_the_readme_names_every_verb() -> None:
    verbs = {command.split()[0] for command in COMMANDS}
    assert verbs == {"g3n-compile", "g3n-run", "g3n-verify", "g3n-inspect", "g3n-bench"}


@pytest.mark.parametrize("command", COMMANDS)
def test_command_runs(command: str, nano_int4: Path, workspace: Path) -> None:
    if command.startswith("g3n-compile"):
        return  # the fixture ran it
    if not (sources := workspace / "compiler").exists():
        sources.symlink_to(ROOT / "compiler")  # commands name files of the repository
    result = run(command, workspace)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() and "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ELSEWHERE)
def test_command_for_other_checkpoints_parses(command: str, workspace: Path) -> None:
    """It gets as far as looking for a checkpoint that is not here."""
    result = run(command.strip(), workspace)
    assert result.returncode in (10, 18), result.stderr
    assert "Usage" not in result.stderr and "Traceback" not in result.stderr


def test_make_targets_exist() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")
    assert MAKE and all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in MAKE)


def test_fixture_command_is_the_readmes() -> None:
    assert README_COMMAND in COMMANDS


def test_quality_table(nano_int4: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "quality.py"
    words = [sys.executable, str(script), str(nano_int4), "--documents", "2"]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    rows = re.findall(r"^\| int4 \| (litert|executorch) \| ([\d.]+) \| ([+-][\d.]+)% \|$", result.stdout, re.MULTILINE)
    assert [runtime for runtime, _, _ in rows] == ["litert", "executorch"]
    assert all(abs(float(loss)) < 10 for _, _, loss in rows)
