"""The app's real screens on this machine's JVM: what they do, and their pictures against those that were looked at."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from android_app.tests.conftest import OFFLINE, run

SOURCES = Path(__file__).parents[1] / "app" / "src" / "test"
PICTURES = SOURCES / "resources" / "pictures"
MOST_BYTES = 450_000
"""A picture for every state and setting has to be small to be kept in a repository."""


@pytest.fixture(scope="module")
def report(android: Path) -> str:
    return run(OFFLINE / "build_screens.sh", android / "parts", android, android / "pictures")


def test_every_screen_test_ran_and_passed(report: str) -> None:
    tests = {path.name: path.read_text("utf-8") for path in SOURCES.rglob("*Test.kt")}
    settings = len([path for path in PICTURES.iterdir() if path.is_dir()])
    written = sum(text.count("@Test\n") * (settings if "Parameterized" in text else 1) for text in tests.values())
    passed = re.search(r"^OK \((\d+) tests\)$", report, re.MULTILINE)
    assert passed, report[-4000:]
    assert int(passed[1]) == written > 40


def test_every_picture_that_is_kept_was_drawn(report: str, android: Path) -> None:
    kept = {path.relative_to(PICTURES) for path in PICTURES.rglob("*.png")}
    drawn = {path.relative_to(android / "pictures") for path in (android / "pictures").rglob("*.png")}
    assert kept == drawn, kept ^ drawn
    assert sum((PICTURES / path).stat().st_size for path in kept) < MOST_BYTES
