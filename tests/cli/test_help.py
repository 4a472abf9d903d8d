"""The help of every verb: what it shows, and that it asks for no toolchain."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from g3n_compiler.cli import bench, calibrate, compile, inspect, push, run, verify
from g3n_compiler.cli.options import Verb
from tests.bundle.signed_bundle import Keys, make_bundle

MODULES = {f"g3n-{m.__name__.rpartition('.')[2]}": m for m in (bench, calibrate, compile, inspect, push, run, verify)}
VERBS: dict[str, click.Command] = {name: module.main for name, module in MODULES.items()}
TOOLCHAINS = {
    "ai_edge_litert", "executorch", "litert_lm", "litert_torch", "matplotlib", "numpy", "onnx", "onnxruntime", "PIL",
    "sentencepiece", "soundfile", "timm", "tokenizers", "torch", "transformers",
}  # fmt: skip
PROGRAM = """
import sys, {module} as verb
sys.argv[1:] = {arguments}
try:
    verb.main.main(sys.argv[1:])
except SystemExit as end:
    print("ended with", end.code, *sorted({toolchains} & set(sys.modules)))
"""


def last_line(verb: str, *arguments: str) -> str:
    """What the verb ended with in a process of its own, and which toolchains it imported."""
    program = PROGRAM.format(module=MODULES[verb].__name__, arguments=arguments, toolchains=TOOLCHAINS)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("verb", VERBS)
def test_help_imports_no_toolchain(verb: str) -> None:
    assert last_line(verb, "--help") == "ended with 0"


def test_a_signature_is_checked_without_toolchains(tmp_path: Path) -> None:
    keys = Keys(tmp_path, "mine")
    bundle = make_bundle(tmp_path / "bundle", keys)
    assert last_line("g3n-verify", str(bundle), "--key", str(keys.public), "--signature-only") == "ended with 0"


@pytest.mark.parametrize(("verb", "command"), VERBS.items())
def test_what_help_shows(verb: str, command: click.Command) -> None:
    short, long = (CliRunner().invoke(command, [flag], prog_name=verb) for flag in ("-h", "--help"))
    assert short.exit_code == 0 and short.output == long.output
    assert f"Usage: {verb}" in long.output and "\nExamples:\n" in long.output and "\x1b" not in long.output
    assert "docs/exit-codes.md" in " ".join(long.output.split())
    for option in (option for parameter in command.params for option in parameter.opts if option.startswith("--")):
        assert re.search(rf"^  .*{option}\b", long.output, re.MULTILINE), option
    said = CliRunner().invoke(command, ["--version"], prog_name=verb)
    assert said.exit_code == 0 and said.output == f"{verb} {version('g3n')}\n"


@pytest.mark.parametrize(("verb", "command"), VERBS.items())
def test_examples_are_commands_that_parse(verb: str, command: click.Command) -> None:
    text = CliRunner().invoke(command, ["-h"], prog_name=verb).output.partition("Examples:\n")[2]
    examples = re.findall(r"^  (g3n-.+)$", text, re.MULTILINE)
    assert 2 <= len(examples) <= 4 and examples[0].startswith(verb)
    for example in examples:
        name, *arguments = shlex.split(example)
        VERBS[name].make_context(name, arguments)


def test_options_are_shown_in_their_groups() -> None:
    help = CliRunner().invoke(VERBS["g3n-compile"], ["-h"]).output
    assert re.search(r"\nMatFormer slices:\n(  .*\n)*  --elastic", help)
    assert re.search(r"\nOptions:\n(  .*\n)*  --out", help) and help.count("--elastic NAME") == 1


def test_a_group_names_parameters_that_there_are() -> None:
    with pytest.raises(ValueError, match="no such parameter: absent"):
        click.command(cls=Verb, groups={"A": ("absent",)})(lambda: None)
