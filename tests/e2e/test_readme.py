"""Every command of the README (README.md) runs, and prints what the page says that it prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from g3n_compiler.nano.tasks import read_examples
from tests.documented import ROOT, Example, examples, mentioned, says
from tests.e2e.conftest import README_COMMAND, run

EXAMPLES = examples("README.md")


def test_the_readme_names_the_verbs_that_a_newcomer_needs() -> None:
    verbs = {example.command.split()[0] for example in EXAMPLES}
    assert verbs == {"g3n-compile", "g3n-run", "g3n-verify", "g3n-inspect", "g3n-bench"}
    assert README_COMMAND in [example.command for example in EXAMPLES]


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.command for example in EXAMPLES])
def test_command_runs(example: Example, nano_int4: Path, workspace: Path) -> None:
    if not (sources := workspace / "compiler").exists():
        sources.symlink_to(ROOT / "compiler")  # commands name files of the repository
    if example.command.startswith("g3n-compile"):
        printed = (nano_int4.parents[1] / "printed.txt").read_text(encoding="utf-8")  # the fixture ran it
    else:
        result = run(example.command, workspace)
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip() and "Traceback" not in result.stderr
        printed = result.stdout
    if example.shown:
        assert says(example.shown, printed), printed


@pytest.mark.parametrize("command", mentioned("README.md"))
def test_command_for_other_checkpoints_parses(command: str, workspace: Path) -> None:
    """It gets as far as looking for a checkpoint that is not here."""
    result = run(command, workspace)
    assert result.returncode in (10, 18), result.stderr
    assert "Usage" not in result.stderr and "Traceback" not in result.stderr


def test_quality_table(nano_int4: Path, tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "quality.py"
    words = [sys.executable, str(script), str(nano_int4), "--documents", "2", "--examples", "1"]
    words += ["--kept", str(tmp_path / "answers.json")]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    row = r"^\| int4 \| (litert|executorch) \| [\d.]+ \| [\d.]+ \| ([+-][\d.]+)% \| ([\d.]+) \| ([\d.]+)% \|$"
    rows = re.findall(row, result.stdout, re.MULTILINE)
    assert [runtime for runtime, *_ in rows] == ["litert", "executorch"]
    for _, lost, divergence, same in rows:
        assert abs(float(lost)) < 10 and 0 < float(divergence) < 0.1 and float(same) > 80
    solved = re.findall(
        r"^\| ([a-z0-9-]+) \| (100\.0|0\.0) \| (100\.0|0\.0) \| (100\.0|0\.0) \|$", result.stdout, re.MULTILINE
    )
    assert [task for task, *_ in solved] == list(dict.fromkeys(e.task for e in read_examples()))
    assert sum(found.count("100.0") for found in solved) >= 0.8 * 3 * len(solved)
    assert re.search(r"int4: both runtimes give the same answer to \d+ of 14", result.stdout)
