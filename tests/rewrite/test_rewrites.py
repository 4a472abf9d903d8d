"""Rewrites change weights and not the function; what a checkpoint's author had moved makes no difference."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from g3n_compiler.lower.isolated import isolated
from g3n_compiler.models.embedding_tables import embedding_weights
from g3n_compiler.models.registry import text_weights
from g3n_compiler.models.weights import WeightSpec
from g3n_compiler.rewrite.apply import Rewrite, Rewrites
from g3n_compiler.rewrite.choose import STRONGEST
from g3n_compiler.slice.plan import plan_slice
from g3n_compiler.source import Source
from g3n_compiler.verify.checks import relative_error
from g3n_compiler.verify.reference import Reference, hf_logits
from tests.conftest import TinyModel, ids_of
from tests.rewrite.planted import Plant, hidden, norm, plant, small, turned

TURN = turned(2, {0: [0], 1: [1], 2: [2], 3: [3, 5, 6, 7, 8], 4: [4, 9]}, 32)


def specs(source: Source) -> dict[str, WeightSpec]:
    return text_weights(source.text) | embedding_weights(source.text)


@pytest.fixture(scope="module")
def rewritten(tiny: TinyModel) -> Source:
    return tiny.open().rewritten()


def test_logits_stay_those_of_transformers(tiny: TinyModel, tmp_path: Path) -> None:
    """Also where everything that can be moved has been moved far."""
    source = Source.open(plant(tiny.directory, tmp_path / "planted", hidden(32), norm(16), small(1 / 16), TURN))
    ids, rewritten = ids_of(40, 4000), source.rewritten()
    assert relative_error(Reference(rewritten).logits(ids).numpy(), hf_logits(tiny.hf, ids).numpy()) < 2e-5
    assert rewritten.rewrites is not None
    for name in rewritten.rewrites.tensors:
        assert not torch.equal(rewritten.read_relative(name), source.read_relative(name)), name


def test_all_that_commutes_in_the_model_is_rewritten(rewritten: Source) -> None:
    assert rewritten.rewrites is not None
    layer = ("laurel.linear_left", "laurel.linear_right", "pre_feedforward_layernorm", "mlp.gate_proj", "mlp.up_proj",
             "mlp.down_proj", "per_layer_input_gate", "per_layer_projection", "self_attn.o_proj")  # fmt: skip
    expected = {f"layers.{i}.{name}.weight" for i in range(10) for name in layer}
    expected |= {f"layers.{i}.altup.correct_output_scale" for i in range(10)}
    expected |= {f"layers.{i}.self_attn.v_proj.weight" for i in range(5)}
    assert rewritten.rewrites.tensors.keys() == expected | {
        "per_layer_projection_norm.weight",
        "embed_tokens_per_layer.weight",
    }


def test_factors_lose_no_bit(rewritten: Source) -> None:
    assert rewritten.rewrites is not None
    factors = [f for r in rewritten.rewrites.tensors.values() for f in (r.rows, r.columns) if f is not None]
    assert all(torch.equal(torch.frexp(f).mantissa, torch.full_like(f, 0.5)) for f in factors)
    assert any((f != 1).any() for f in factors)


def test_rows_are_those_of_the_whole_tensor(rewritten: Source) -> None:
    for name in ("layers.2.self_attn.v_proj.weight", "layers.2.mlp.up_proj.weight", "embed_tokens_per_layer.weight"):
        whole = rewritten.read_relative(name)
        for begin, end in ((0, 1), (5, 40), (31, 33), (len(whole) - 3, len(whole))):
            torch.testing.assert_close(rewritten.read_relative(name, (begin, end)), whole[begin:end], rtol=0, atol=1e-7)


@pytest.mark.parametrize("change", [hidden(32), hidden(1 / 32), norm(16), norm(1 / 16), small(16), small(1 / 16)])
def test_factors_that_were_moved_before_make_no_difference(
    change: Plant, tiny: TinyModel, rewritten: Source, tmp_path: Path
) -> None:
    """Up to one power of two for all channels of a place together, which no rounding sees."""
    again = Source.open(plant(tiny.directory, tmp_path / "planted", change)).rewritten()
    assert any(not torch.equal(again.original.read(s), rewritten.original.read(s)) for s in specs(rewritten).values())
    for name, spec in specs(rewritten).items():
        ratio = again.read(spec) / rewritten.read(spec)
        ratio = ratio[ratio.isfinite()]
        assert ratio.min() > 0 and ratio.max() / ratio.min() < 1.0001 and 1 / 2.001 < ratio.max() < 2.001, name


def test_channels_that_no_example_reached_are_moved_too(tiny: TinyModel, tmp_path: Path) -> None:
    """Their columns lie on the same grid as the others', which large ones would make coarse."""
    plain, outliers = tiny.open(), Source.open(plant(tiny.directory, tmp_path / "planted", hidden(1 / 64)))
    reached = torch.ones(128)
    reached[3::40] = 0  # those that the planting made large
    sizes = {f"layers.{i}.mlp.hidden": reached for i in range(10)}
    for i in range(10):
        columns = [s.rewritten(sizes).read_relative(f"layers.{i}.mlp.down_proj.weight") for s in (plain, outliers)]
        ratio = columns[1] / columns[0]
        assert ratio.min() > 0 and ratio.max() / ratio.min() < 1.0001, f"layer {i}"


def test_a_turn_that_was_made_before_makes_no_difference(tiny: TinyModel, rewritten: Source, tmp_path: Path) -> None:
    again = Source.open(plant(tiny.directory, tmp_path / "planted", TURN)).rewritten()
    for name, spec in specs(rewritten).items():
        if name.endswith(("v_proj", "o_proj")):
            assert (again.original.read(spec) - rewritten.original.read(spec)).abs().max() > 0.05, name
            torch.testing.assert_close(again.read(spec), rewritten.read(spec), rtol=0, atol=1e-4)


def test_a_slice_has_the_rewrites_of_the_whole(rewritten: Source) -> None:
    plan = plan_slice(rewritten.whole, (6,), [64])
    first, after = rewritten.original.sliced(plan).rewritten(), rewritten.sliced(plan)
    for spec in specs(after).values():
        assert torch.equal(first.read(spec), after.read(spec)), spec.name
    ids = ids_of(20, 4000)
    want = Reference(after.original).logits(ids).numpy()
    assert relative_error(Reference(after).logits(ids).numpy(), want) < 2e-5


def test_a_dead_channel_keeps_its_size(tiny: TinyModel, tmp_path: Path) -> None:
    def kill(tensors: dict[str, torch.Tensor], prefix: str) -> None:
        tensors[prefix + "layers.4.mlp.up_proj.weight"][7] = 0
        tensors[prefix + "layers.5.mlp.down_proj.weight"][:, 8] = 0
        tensors[prefix + "layers.6.mlp.up_proj.weight"][9] *= 2.0**-60

    source = Source.open(plant(tiny.directory, tmp_path / "dead", kill)).rewritten()
    assert source.rewrites is not None
    rows = [source.rewrites.tensors[f"layers.{i}.mlp.up_proj.weight"].rows for i in (4, 5, 6)]
    assert [float(rows[0][7]), float(rows[1][8]), float(rows[2][9])] == [1, 1, 2**STRONGEST]  # type: ignore[index]
    ids = ids_of(20, 4000)
    assert relative_error(Reference(source).logits(ids).numpy(), Reference(source.original).logits(ids).numpy()) < 2e-5


def test_turning_columns_takes_no_memory_for_each_row() -> None:
    """Of E2B's output projections it would be 8 GB."""
    assert isolated(_memory_to_turn) < 1 << 30


def _memory_to_turn() -> int:
    groups, dim, rows = 8, 64, 20_000
    rewrites = Rewrites({"o": Rewrite(turned_columns=torch.eye(dim, dtype=torch.float64).repeat(groups, 1, 1))})
    value = torch.ones(rows, groups * dim)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert torch.equal(rewrites.read("o", None, lambda part: value), value)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
