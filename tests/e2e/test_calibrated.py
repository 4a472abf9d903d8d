"""The calibration of nano that docs/calibration.md shows, compiled and run by the stock engine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from g3n_runtime.bundle import open_bundle
from tests.documented import ROOT, examples, text_of
from tests.e2e.conftest import run

PAGE = "docs/calibration.md"
COMMANDS = [example.command for example in examples(PAGE)]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder in which the README's commands ran, one after the other, and what each printed."""
    workspace = tmp_path_factory.mktemp("calibrated")
    (workspace / "compiler").symlink_to(ROOT / "compiler")
    results = [run(command, workspace) for command in COMMANDS]
    for command, result in zip(COMMANDS, results, strict=True):
        assert result.returncode == 0, f"{command}: {result.stderr}"
    return workspace, [result.stdout for result in results]


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_the_page_shows_what_it_says(said: tuple[Path, list[str]]) -> None:
    _, (calibrated, compiled, _) = said
    assert (
        found := re.search(r"60 matrices rounded by 216 examples: .* (\d+)% of plain", " ".join(calibrated.split()))
    )
    assert (shown := re.search(r"60 matrices rounded by 216 examples: .* (\d+)% of plain", text_of(PAGE)))
    assert abs(int(found[1]) - int(shown[1])) <= 2  # sums in another order on another machine
    assert "comparisons with the reference passed" in compiled


def test_the_bundle_speaks_and_names_its_origin(said: tuple[Path, list[str]]) -> None:
    workspace, (*_, answer) = said
    assert answer.strip() == "Reversed: house river stone"
    bundle = open_bundle(workspace / "exported" / "custom-host-int4")
    assert bundle.manifest["provenance"]["calibration"]["examples"] == 216
