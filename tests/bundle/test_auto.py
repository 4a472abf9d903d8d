"""Compiles whose recipe is chosen for the checkpoint, and bundles that may not be larger than allowed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from g3n_compiler.calibrate.run import calibrate
from g3n_compiler.cli import inspect
from g3n_compiler.compile import compile_bundle
from g3n_compiler.errors import LossError, SliceError, TargetError
from g3n_compiler.request.options import CompileOptions
from g3n_compiler.widths.bounds import GRAPHS
from g3n_runtime.bundle import open_bundle
from tests.conftest import TinyModel
from tests.fakes import FakeBackend

Compile = Callable[..., Path]


@pytest.fixture
def compile_tiny(tiny: TinyModel, tmp_path: Path) -> Compile:
    base = CompileOptions(checkpoint=tiny.directory, runtime="litert", context=64, out=tmp_path / "out", recipe="auto")

    def compile_with(**options: object) -> Path:
        return compile_bundle(replace(base, **options), lambda line: None, lambda runtime: FakeBackend(runtime))  # type: ignore[arg-type]

    return compile_with


def test_widths_are_chosen_within_a_size_and_can_be_used_again(
    compile_tiny: Compile, tiny: TinyModel, tmp_path: Path
) -> None:
    tokenizer = (tiny.directory / "tokenizer.json").stat().st_size
    size = GRAPHS + tokenizer + 1_500_000  # int4 takes less, int8 more
    out = compile_tiny(max_size=f"{size / 1e6:.6f}MB")
    told = open_bundle(out).manifest["recipe"]
    assert told["name"] == "auto" and 3 < len(told["patterns"]) < 60 and set(told["patterns"].values()) == {"int8"}
    assert "matrices (layers." in (out / "report.html").read_text(encoding="utf-8")
    shown = CliRunner().invoke(inspect.main, [str(out), "--recipe"])
    mine = tmp_path / "mine.json"
    mine.write_text(shown.output, encoding="utf-8")
    again = open_bundle(compile_tiny(recipe=str(mine), out=tmp_path / "again")).manifest
    assert again["recipe"] == {**told, "name": again["recipe"]["name"]} and again["recipe"]["name"] != "auto"
    assert again["loss"] == open_bundle(out).manifest["loss"]


def test_the_smallest_within_a_loss_is_chosen(compile_tiny: Compile) -> None:
    told = open_bundle(compile_tiny(max_loss=9.0)).manifest["recipe"]
    assert set(told["patterns"].values()) == {"int2"} and len(told["patterns"]) == 60
    assert told["roles"]["head"] == told["roles"]["ple"] == "int4"


def test_what_cannot_be_kept_is_refused(compile_tiny: Compile, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="chooses within a bound"):
        compile_tiny()
    with pytest.raises(TargetError, match=r"the files for litert take 0\.0 MB, over --max-size 0\.0 MB"):
        compile_tiny(recipe="int8", max_size="0.001MB")
    with pytest.raises(SliceError, match="--max-size '2' is not understood"):
        compile_tiny(max_size="2")
    with pytest.raises(LossError, match="most is lost in"):
        compile_tiny(max_loss=-1.0)
    assert [path.name for path in tmp_path.iterdir() if path.name == "out"] == []


def test_a_recipe_with_a_name_is_not_saved(compile_tiny: Compile) -> None:
    shown = CliRunner().invoke(inspect.main, [str(compile_tiny(recipe="int8")), "--recipe"])
    assert shown.exit_code == 2 and "--quant int8" in shown.output


def test_calibrating_needs_a_recipe_that_is_chosen_already(tiny: TinyModel, tmp_path: Path) -> None:
    examples = tmp_path / "examples.jsonl"
    examples.write_text(json.dumps({"text": "A river."}), encoding="utf-8")
    with pytest.raises(TargetError, match="save its recipe with g3n-inspect --recipe"):
        calibrate(tiny.directory, examples, "auto", tmp_path / "out", lambda line: None)
