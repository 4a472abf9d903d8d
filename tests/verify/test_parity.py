"""The judgements themselves: what counts as equal, as degenerate, as failed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from g3n_compiler.errors import ParityError
from g3n_compiler.verify.checks import Check, Parity, greedy_margin, is_degenerate, relative_error, rounded
from g3n_compiler.verify.tower_blocks import StepErrors, step_checks
from tests.conftest import TinyModel
from tests.jobs import make_job


def test_relative_error_is_the_worst_position() -> None:
    expected = np.array([[1.0, -2.0], [10.0, 5.0]], np.float32)
    actual = expected + np.array([[0.0, 0.02], [0.01, 0.0]], np.float32)
    assert relative_error(actual, expected) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_never_passes(bad: float) -> None:
    expected = np.ones((2, 3), np.float32)
    actual = expected.copy()
    actual[1, 1] = bad
    assert relative_error(actual, expected) == math.inf
    assert not Check("", "", "", "", "", math.nan, 1.0).passed


def test_shapes_must_agree() -> None:
    assert relative_error(np.ones((2, 3)), np.ones((3, 3))) == math.inf


def test_greedy_margin() -> None:
    assert greedy_margin([1, 2, 3], [1, 2, 3], [9.0, 9.0, 9.0]) == 0
    assert greedy_margin([1, 5, 6], [1, 2, 3], [9.0, 0.5, 0.1]) == 0.5
    assert greedy_margin([1, 2], [1, 2, 3], [9.0, 9.0, 9.0]) == math.inf


@pytest.mark.parametrize(
    ("ids", "degenerate"),
    [([], True), ([0, 0, 0], True), ([7] * 16, True), ([7] * 19 + [8], True), ([7, 8] * 10, False), ([7] * 5, False)],
)
def test_degenerate(ids: list[int], degenerate: bool) -> None:
    assert is_degenerate(ids, pad_id=0) is degenerate


def test_nothing_compared_is_not_passed() -> None:
    assert not Parity().passed
    with pytest.raises(ParityError):
        Parity().require()


def test_the_error_of_each_layer_is_kept() -> None:
    check = Check("", "", "", "", "", 0.00123, 0.01, "", (("layer 0", 0.00123), ("head", math.inf)))
    made = Parity([check, Check("", "", "", "", "", 0.0, 0.01)]).as_dict()["checks"]
    assert made[0]["parts"] == [{"name": "layer 0", "value": 0.0012}, {"name": "head", "value": 1e30}]
    assert "parts" not in made[1]


def test_the_error_of_each_step_of_a_tower_is_kept(tiny: TinyModel, tmp_path: Path) -> None:
    errors = StepErrors(errors={"the stem": 1e-6, "blocks.0.0": 3e-3, "the adapter": 0.0})
    job = make_job(tiny.open(), tmp_path, "int4")
    (check,) = step_checks(job, "vision_encoder", "litert", "256 x 256 pixels", errors)
    assert check.parts == (("the stem", 1e-6), ("blocks.0.0", 3e-3), ("the adapter", 0.0))
    assert check.value == 3e-3 and check.note == "worst in blocks.0.0"


def test_rounded_keeps_two_digits() -> None:
    assert rounded(0.0012345) == 0.0012 and rounded(math.inf) == 1e30
