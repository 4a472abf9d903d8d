"""A model that is not held in float32: read by rows and layers, and never passed without having been compared."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from g3n_compiler.compile import CompileOptions, compile_bundle
from g3n_compiler.errors import ParityError
from g3n_compiler.models.weights import WeightSpec, linear_by_rows
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.verify import reference
from g3n_compiler.verify.checks import relative_error
from g3n_compiler.verify.reference import Reference
from tests.conftest import TinyModel
from tests.fakes import FakeBackend

IDS = [2, 5, 9, 14, 3, 8]


@pytest.fixture
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "SMALL_PARAMETERS", 0)


@pytest.mark.parametrize("block", [1, 3, 7, 100])
def test_linear_by_rows_is_linear(block: int) -> None:
    weight, x = torch.randn(7, 4), torch.randn(2, 4)
    spec = WeightSpec("w", (7, 4), "linear", "w")

    def read(spec: WeightSpec, rows: tuple[int, int] | None = None) -> torch.Tensor:
        return weight if rows is None else weight[rows[0] : rows[1]]

    torch.testing.assert_close(linear_by_rows(x, spec, read, block), x @ weight.T)


@pytest.mark.parametrize("recipe", ["fp32", "int4"])
def test_reference_that_reads_gives_what_one_that_holds_does(
    recipe: str, tiny: TinyModel, request: pytest.FixtureRequest
) -> None:
    held = Reference(tiny.open(), RECIPES[recipe]).logits(IDS)
    request.getfixturevalue("nothing_is_small")
    assert relative_error(Reference(tiny.open(), RECIPES[recipe]).logits(IDS).numpy(), held.numpy()) < 1e-5


@pytest.mark.usefixtures("nothing_is_small")
def test_artifact_without_layers_is_not_passed(tiny: TinyModel, tmp_path: Path) -> None:
    options = CompileOptions(size=None, checkpoint=tiny.directory, runtime="litert", out=tmp_path / "out")
    with pytest.raises(ParityError, match="layer by layer"):
        compile_bundle(options, lambda line: None, FakeBackend)
    assert not (tmp_path / "out").exists()
