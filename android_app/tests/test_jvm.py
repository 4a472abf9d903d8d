"""The app's plain Kotlin code under its own tests."""

from __future__ import annotations

import re
from pathlib import Path

SOURCES = Path(__file__).parents[1] / "core" / "src" / "test" / "kotlin"


def test_every_kotlin_test_ran_and_passed(jvm_report: str) -> None:
    written = sum(path.read_text(encoding="utf-8").count("@Test") for path in SOURCES.rglob("*.kt"))
    passed = re.search(r"^OK \((\d+) tests\)$", jvm_report, re.MULTILINE)
    assert passed, jvm_report[-4000:]
    assert int(passed[1]) == written > 70
