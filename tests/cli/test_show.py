"""Names from a manifest, a path or a device are data: no markup in them is followed, no escape reaches a terminal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from g3n_compiler.cli import bench, calibrate, compile, inspect, push, run, verify
from g3n_compiler.cli.common import portable_command
from g3n_compiler.cli.show import DataTable, progress_bytes, progress_steps, show, show_error, show_table, styled
from tests.android.golden import DIRECTORY

HOSTILE = "[/x][bold]a[/bold] :smile: \x1b[2J\x1b]0;title\x07\x9b31m\u202e\ud800"
VERBS = [m.main for m in (bench, calibrate, compile, inspect, push, run, verify)]


def assert_data(text: str) -> None:
    assert "[/x][bold]a[/bold] :smile: " in text.replace("\n", "")
    assert not {"\x1b", "\x07", "\x9b", "\u202e", "\ud800"} & set(text)


def test_every_way_to_show(capsys: pytest.CaptureFixture[str]) -> None:
    show(HOSTILE, styled(HOSTILE, "bold"))
    show_error(HOSTILE)
    table = DataTable(HOSTILE, "name")
    table.add_row(HOSTILE)
    show_table(table)
    with progress_steps() as step:
        step(HOSTILE)
    with progress_bytes(HOSTILE) as report:
        report(1, 2)
    said = capsys.readouterr()
    assert_data(said.out)
    assert_data(said.err.replace("\x1b", "") if "\x1b[?25" in said.err else said.err)


@pytest.mark.parametrize("verb", VERBS)
def test_paths(verb: Any, tmp_path: Path) -> None:
    name = str(tmp_path / HOSTILE.replace("/", "|").replace("\ud800", ""))
    options = {calibrate.main: ["--out", name, "--checkpoint", name], compile.main: ["--checkpoint", name]}
    arguments = options.get(verb, []) + ([] if verb is compile.main else [name])
    result = CliRunner().invoke(verb, arguments)
    assert result.exit_code not in (0, 1), result.exception
    assert "[bold]a" in result.output and not {"\x1b", "\x07", "\x9b", "\u202e"} & set(result.output)


def test_a_manifest(tmp_path: Path) -> None:
    manifest = json.loads((DIRECTORY / "manifest_short.json").read_text(encoding="utf-8"))
    manifest["files"] = []
    manifest["name"] = manifest["model"]["size"] = HOSTILE.replace("\ud800", "")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    result = CliRunner().invoke(inspect.main, [str(tmp_path)])
    assert isinstance(result.exception, SystemExit | None), result.exception
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(result.output)


def test_the_command_in_the_manifest() -> None:
    assert portable_command(["g3n-compile", "--size", "\x1b[2J\udcff"]) == r"g3n-compile --size \x1b[2J\udcff"


def test_steps_in_a_file_have_a_line_each_with_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_steps() as step:
        assert capsys.readouterr().err == ""
        step("reading")
        assert capsys.readouterr().err == "reading"  # in work, and already to be seen
        step("writing\n")
        assert re.fullmatch(r"  \d+\.\d s\nwriting\\n", capsys.readouterr().err)
    assert re.fullmatch(r"  \d+\.\d s\n", capsys.readouterr().err)


def test_a_step_that_fails_ends_its_line_without_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="full"), progress_steps() as step:
        step("writing")
        raise OSError("full")
    show_error("the disk is full")
    assert capsys.readouterr().err == "writing\nerror: the disk is full\n"


def test_quiet_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_steps(quiet=True) as step, progress_bytes("file", quiet=True) as report:
        step("reading")
        report(1, 2)
    assert capsys.readouterr() == ("", "")
