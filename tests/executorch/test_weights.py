"""Quantised linear layers: the pattern, its arithmetic, and what may not be expressed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from g3n_compiler.errors import NotFinite
from g3n_compiler.lower.executorch import weights
from g3n_compiler.lower.executorch.delegates.template import StandIns
from g3n_compiler.lower.executorch.delegates.weight_store import store_weights
from g3n_compiler.lower.executorch.program import export_method
from g3n_compiler.lower.executorch.text import build_methods
from g3n_compiler.lower.executorch.weights import XnnpackWeights, checkpoint_parts
from g3n_compiler.models.registry import text_weights
from g3n_compiler.models.weights import WeightSpec
from g3n_compiler.quantize.recipe import RECIPES, Recipe, Scheme
from g3n_compiler.quantize.rows import fake_quantize, fake_quantize_activations
from g3n_compiler.source import Source
from tests.executorch.conftest import CHUNK, CONTEXT, eager_pieces

SPEC = WeightSpec("w", (24, 16), "ffn", "w.weight")


@pytest.mark.parametrize("bits", [4, 8])
def test_a_linear_is_the_fake_quant_reference(bits: int) -> None:
    scheme = Scheme(bits)  # type: ignore[arg-type]
    torch.manual_seed(0)
    weight, x = torch.randn(SPEC.shape), torch.randn(5, 1, 16)
    held = XnnpackWeights({"w": SPEC}, Recipe("r", "", {"ffn": scheme}), checkpoint_parts(lambda spec: weight))
    expected = F.linear(fake_quantize_activations(x), fake_quantize(weight, scheme))
    torch.testing.assert_close(held.linear("w", x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(bad: float) -> None:
    weight = torch.zeros(SPEC.shape)
    weight[3, 4] = bad
    with pytest.raises(NotFinite, match=r"'w.weight' holds 1 values"):
        XnnpackWeights({"w": SPEC}, Recipe("r", "", {"ffn": Scheme(8)}), checkpoint_parts(lambda spec: weight))


@pytest.mark.parametrize("bits", [4, 8])
def test_a_large_matrix_is_read_and_rounded_some_rows_at_a_time(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "BLOCK_BYTES", 5 * 16 * 4)
    weight, seen = torch.randn(SPEC.shape), list[tuple[int, int]]()

    def rows(spec: WeightSpec, wanted: tuple[int, int] | None) -> torch.Tensor:
        assert wanted is not None
        seen.append(wanted)
        return weight[slice(*wanted)]

    def whole(spec: WeightSpec) -> torch.Tensor:
        raise AssertionError("E2B's head takes 2.1 GB in float32")

    scheme = Scheme(bits)  # type: ignore[arg-type]
    got, want = checkpoint_parts(whole, rows)(SPEC, scheme), checkpoint_parts(lambda spec: weight)(SPEC, scheme)
    assert got.keys() == want.keys() and all(torch.equal(got[name], want[name]) for name in want)
    assert seen == [(0, 5), (5, 10), (10, 15), (15, 20), (20, 24)]


def test_no_quantised_weight_meets_float_activations(source: Source) -> None:
    recipe = RECIPES["int4"]
    pieces = eager_pieces(source, "int4")
    (method,) = build_methods(source.text, pieces, recipe, CONTEXT, CHUNK, ["forward"])
    nodes = export_method(method, CHUNK).graph.nodes
    dequantised = [n for n in nodes if "dequantize_per_channel" in str(n.target)]
    quantised = [s for s in text_weights(source.text).values() if recipe.scheme(s).bits < 32]
    assert len(dequantised) >= len(quantised) > 30
    for node in dequantised:
        (user,) = node.users
        assert "linear" in str(user.target)
        assert "dequantize_per_token" in str(user.args[0].target)


def test_parts_that_an_earlier_run_left_are_taken(tmp_path: Path) -> None:
    """By weight: one whose parts are not all there is made again."""
    specs = {name: WeightSpec(name, (24, 16), "ffn", f"{name}.weight") for name in ("a", "b")}
    recipe = Recipe("r", "", {"ffn": Scheme(4)})
    asked: list[str] = []

    def parts(spec: WeightSpec, scheme: Scheme) -> dict[str, Tensor]:
        asked.append(spec.name)
        torch.manual_seed(len(spec.name))
        return checkpoint_parts(lambda spec: torch.randn(spec.shape))(spec, scheme)

    first = store_weights(specs, recipe, parts, tmp_path, {})
    (tmp_path / "b-int4-scales").unlink()
    assert store_weights(specs, recipe, parts, tmp_path, {}) == first
    assert asked == ["a", "b", "b"]
    for damaged in ("a-int4-values", "a-int4-scales", "a-int4.json"):
        (tmp_path / damaged).write_bytes(b"")  # as a power cut leaves it
        assert store_weights(specs, recipe, parts, tmp_path, {}) == first
    assert asked == ["a", "b", "b", "a", "a", "a"]


@pytest.mark.parametrize("bits", [4, 8, 32])
def test_a_template_has_one_place_for_each_part(bits: int) -> None:
    """Stand-ins differ in bytes, also among hundreds, and have the sizes of what they stand for."""
    scheme, stand_ins = Scheme(bits), StandIns()  # type: ignore[arg-type]
    for i in range(300):
        stand_ins(WeightSpec(f"w{i}", (4, 6), "ffn", ""), scheme)
    assert len(set(stand_ins.names.values())) == len(stand_ins.names) == 300 * (1 if bits == 32 else 2)
