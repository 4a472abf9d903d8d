"""The pages' commands exist with the options that they are given, and each of them is run or checked by a test."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.documented import EVERY_PAGE, PAGES, ROOT, Example, examples, mentioned, named, says, text_of

SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
RUN_BY = {
    "README.md": "tests/e2e/test_readme.py",
    "docs/elastic.md": "tests/elastic/test_bundle.py",
    "docs/checkpoints.md": "tests/doctor/test_doctor.py",
    "docs/calibration.md": "tests/e2e/test_calibrated.py",
}
"""Which test runs the examples of a page."""
FOLDERS = {"g3n_runtime": "runtime_shims", "g3n_compiler": "compiler", "nano_training": "training"}
OTHERS_OPTIONS = "g3n_compiler.harness"
"""Its options are lm-evaluation-harness's own; tests/e2e/test_harness.py runs it."""


def commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for command in (*(e.command for e in examples(page)), *mentioned(page)):
            yield page, command


@pytest.mark.parametrize(("page", "command"), list(commands()))
def test_the_options_of_a_command_exist(page: str, command: str) -> None:
    program, *words = shlex.split(command)
    with verb(program).make_context(program, words, resilient_parsing=False):
        pass


def test_the_examples_of_every_page_are_run() -> None:
    assert {page for page in PAGES if examples(page)} == set(RUN_BY)
    for page, test in RUN_BY.items():
        assert page in (ROOT / test).read_text(encoding="utf-8"), f"{test} does not read {page}"


def test_every_command_is_documented() -> None:
    assert {command.split()[0] for _, command in commands()} == set(SCRIPTS)


def options_of(command: click.Command) -> set[str]:
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


def options_in(script: Path) -> set[str]:
    """The options of a script, those of a module beside it that it imports too."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    beside = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    own = {text for text in strings if text.startswith("-")} | {"-h", "--help"}
    return own.union(*(options_in(path) for name in beside if (path := script.with_name(f"{name}.py")).is_file()))


def verb(program: str) -> click.Command:
    module, _, name = SCRIPTS[program].partition(":")
    found: click.Command = getattr(importlib.import_module(module), name)
    return found


def fault(command: str) -> str | None:
    """What a command names that does not exist: a program, a script, an option, an extra or a target of make."""
    program, *words = shlex.split(command)
    words, rest = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    options = {word.partition("=")[0] for word in words if re.match("--?[a-z]", word)}
    if program == "make":
        return next(
            (word for word in words if word not in re.findall(r"(?m)^([a-z0-9-]+):", text_of("Makefile"))), None
        )
    if program == "pip":
        folder = "runtime_shims" if "runtime_shims" in words[1] else "."
        project = tomllib.loads(text_of(f"{folder}/pyproject.toml"))["project"]
        extras = re.findall(r"[a-z]+", words[1].partition("[")[2])
        return next((extra for extra in extras if extra not in project["optional-dependencies"]), None)
    if program == "litert-lm":
        from litert_lm_cli.main import cli

        if words and words[0] not in cli.commands:
            return words[0]
        return next(iter(sorted(options - options_of(cli.commands[words[0]]))), None)
    if program in SCRIPTS:
        return next(iter(sorted(options - options_of(verb(program)) - {"-h", "--help"})), None)
    if program == "g3n-runtime":  # a distribution
        return None
    if program == "python":
        program, *words = words
    if program == "-m":
        module, *words = words
        options.remove("-m")
        script = ROOT / FOLDERS[module.split(".")[0]] / module.replace(".", "/")
        script = script / "__main__.py" if script.is_dir() else script.with_suffix(".py")
    else:
        module, script = "", ROOT / program
    if not script.is_file():
        return str(script.relative_to(ROOT))
    if rest and (wrong := fault(shlex.join(["g3n-compile", *rest]))) is not None:  # what the script is to run
        return wrong
    return None if module == OTHERS_OPTIONS else next(iter(sorted(options - options_in(script))), None)


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_what_a_command_names_exists(page: str) -> None:
    assert {command: wrong for command in named(page) if (wrong := fault(command)) is not None} == {}


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("make demos", "demos"),
        ("pip install './runtime_shims[litrt]'", "litrt"),
        ("litert-lm sing", "sing"),
        ("litert-lm serve --loud", "--loud"),
        ("g3n-run BUNDLE --sing", "--sing"),
        ("python benchmarks/absent.py", "benchmarks/absent.py"),
        ("benchmarks/kill_resume.py --kill 5", "--kill"),
        ("benchmarks/kill_resume.py --kills 5 -- --siz e2b", "--siz"),
        ("python -m nano_training.teach --minute 3", "--minute"),
        ("python -m g3n_runtime BUNDLE --vidoe FILE", "--vidoe"),
        ("python -m g3n_compiler.absent", "compiler/g3n_compiler/absent.py"),
    ],
)
def test_what_does_not_exist_is_found(command: str, wrong: str) -> None:
    assert fault(command) == wrong


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
