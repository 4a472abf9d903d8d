"""The pages' commands exist with the options that they are given, and each of them is run or checked by a test."""

from __future__ import annotations

import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator

import click
import pytest

from tests.documented import PAGES, ROOT, Example, examples, made_by, mentioned, says, text_of

SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
RUN_BY = {
    "README.md": "tests/e2e/test_readme.py",
    "docs/elastic.md": "tests/elastic/test_bundle.py",
    "docs/checkpoints.md": "tests/doctor/test_doctor.py",
    "docs/calibration.md": "tests/e2e/test_calibrated.py",
}
"""Which test runs the examples of a page."""


def commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for command in (*(e.command for e in examples(page)), *mentioned(page)):
            yield page, command


@pytest.mark.parametrize(("page", "command"), list(commands()))
def test_the_options_of_a_command_exist(page: str, command: str) -> None:
    program, *words = shlex.split(command)
    module, _, name = SCRIPTS[program].partition(":")
    verb: click.Command = getattr(importlib.import_module(module), name)
    with verb.make_context(program, words, resilient_parsing=False):
        pass


def test_the_examples_of_every_page_are_run() -> None:
    assert {page for page in PAGES if examples(page)} == set(RUN_BY)
    for page, test in RUN_BY.items():
        assert page in (ROOT / test).read_text(encoding="utf-8"), f"{test} does not read {page}"


def test_every_command_is_documented() -> None:
    assert {command.split()[0] for _, command in commands()} == set(SCRIPTS)


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", text_of("Makefile"), re.MULTILINE))
    for page in (*PAGES, "CONTRIBUTING.md"):
        assert set(made_by(page)) <= targets, page


def test_links_lead_somewhere() -> None:
    for page in (*PAGES, "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text_of(page)):
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_what_is_printed_is_compared() -> None:
    assert says(("...", "bundle: x"), "one\ntwo\nbundle: x\n")
    assert says(("a", "...", "b"), "a\nb\n")
    assert not says(("...", "bundle: x"), "bundle: y\n")
    assert not says(("a",), "a\nb\n")
    assert says((), "") and not says(("a",), "")
    assert Example("g3n-inspect x", ()).shown == ()
