"""Every option of every verb refuses what it cannot take; a new option is tried without being named here."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from g3n_compiler.cli import bench, calibrate, compile, inspect, push, run, verify
from g3n_compiler.cli.options import FileName, IntegerList, NameList, Percentage, Words
from g3n_compiler.errors import SliceError
from g3n_compiler.slice.choose import parse_quantity
from g3n_runtime.machine import MOST_THREADS

VERBS = {m.__name__.rpartition(".")[2]: m.main for m in (bench, calibrate, compile, inspect, push, run, verify)}
HUGE = str(10**30)
LONE = "\ud800"
NUMBERS = ("nan", "inf", "-inf", "-1", HUGE, "9" * 5000, "", "a\0b", LONE, "1e400", "\x1b[2J")
TEXTS = ("", "a\0b", LONE)
LISTS = ("", "a\0b", LONE, ",", "1,,2", ",".join("1" * 5000))
INTEGER_LISTS = (*LISTS, "nan", "-1", HUGE, f"1,{HUGE}", "9" * 5000)


def hostile(kind: click.ParamType) -> tuple[str, ...]:
    """What a parameter of this kind must refuse; a kind that is not known here has to be added."""
    if isinstance(kind, click.IntRange | click.FloatRange):
        assert kind.min is not None
        return NUMBERS
    if isinstance(kind, Percentage):
        return (*NUMBERS, "3", "%", "-1%", "1e3%", "nan%", f"{HUGE}%")
    if isinstance(kind, IntegerList):
        return INTEGER_LISTS
    if isinstance(kind, NameList):
        return LISTS
    if isinstance(kind, Words | FileName | click.Choice):
        return TEXTS
    raise AssertionError(f"{kind} takes anything: give the option one of the kinds of g3n_compiler.cli.options")


def parameters() -> Iterator[tuple[str, click.Parameter]]:
    for verb, command in VERBS.items():
        for parameter in command.params:
            if not (isinstance(parameter, click.Option) and parameter.is_flag):
                yield verb, parameter


@pytest.mark.parametrize(("verb", "parameter"), [pytest.param(v, p, id=f"{v} {p.opts[-1]}") for v, p in parameters()])
def test_refused_with_a_message(verb: str, parameter: click.Parameter) -> None:
    command = VERBS[verb]
    needed = [p for p in command.params if p is not parameter and p.required]
    for value in hostile(parameter.type):
        given = [*(["--"] if isinstance(parameter, click.Argument) else [parameter.opts[-1]]), value]
        others = [w for p in needed for w in ([p.opts[-1], "x"] if isinstance(p, click.Option) else ["x"])]
        arguments = others + given if isinstance(parameter, click.Argument) else given + others
        result = CliRunner().invoke(command, arguments)
        assert result.exit_code == 2, (value[:20], result.output, result.exception)
        assert "Error: Invalid value" in result.output and "Traceback" not in result.output
        name = parameter.opts[-1] if isinstance(parameter, click.Option) else parameter.name.upper()
        assert name in result.output and "\x1b" not in result.output


def test_threads_are_bounded_by_the_machine() -> None:
    for verb in ("run", "bench"):
        result = CliRunner().invoke(VERBS[verb], ["x", "--threads", "10000"])
        assert result.exit_code == 2 and f"1<=x<={MOST_THREADS}" in result.output


def test_what_a_shell_put_on_the_line_is_shown_as_text() -> None:
    for arguments in (["--\x1b[2J"], ["x", "y", "\x1b]0;z\x07", "\x1b[1m"]):
        result = CliRunner().invoke(run.main, arguments)
        assert result.exit_code == 2 and "\\x1b" in result.output and "\x1b" not in result.output


@pytest.mark.parametrize("text", ["nanGB", "infGB", "1e400GB", "-1GB", "9" * 400 + "GB", "1." + "9" * 400 + "GB", "GB"])
def test_quantities(text: str) -> None:
    with pytest.raises(SliceError, match="not understood"):
        parse_quantity(text, "--budget", ("gb",))
    assert parse_quantity("2.5 GB", "--budget", ("gb",)) == 2_500_000_000
