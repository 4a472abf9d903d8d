"""Sizes that nest in one bundle: which blocks and groups they are cut into, and that cutting changes no size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from g3n_compiler.errors import SliceError
from g3n_compiler.models.embedding_tables import ple_tables
from g3n_compiler.models.registry import text_weights
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.slice.elastic import choose_sizes
from g3n_compiler.source import Source
from g3n_compiler.verify.reference import Reference
from tests.conftest import TinyModel
from tests.slice.test_choose import E4B

IDS = (2, *range(40, 80))
SIZES = ("half-5-6", "96", "full")


@pytest.fixture(scope="module")
def source(tiny: TinyModel) -> Source:
    return tiny.open()


def test_blocks_end_where_some_size_does(source: Source) -> None:
    full, small, middle = choose_sizes(SIZES, source.text)
    assert [s.name for s in (full, small, middle)] == ["full", "half-5-6", "96"]
    assert full.config.ffn_blocks == ((64, 32, 32),) * 5 + ((96, 32),) * 2 + ((64, 32, 32),) * 3
    assert middle.config.ffn_blocks[4:7] == ((64, 32), (96,), (96,))
    assert small.config.ffn_blocks == ((64,),) * 8
    assert full.config.ple_groups == middle.config.ple_groups == ((0, 1, 2, 3, 4, 7, 8, 9), (5, 6))
    assert small.rows == (0, 1, 2, 3, 4, 7, 8, 9) and small.config.num_kv_shared_layers == 3


def test_the_blocks_are_the_checkpoints_tensors(source: Source, tiny: TinyModel) -> None:
    full = choose_sizes(SIZES, source.text)[0].config
    state, specs = tiny.hf.state_dict(), text_weights(full)
    for projection in ("gate_proj", "up_proj", "down_proj"):
        parts = [source.read(specs[f"layers.1.mlp.{projection}{suffix}"]) for suffix in ("", ".1", ".2")]
        whole = state[f"model.layers.1.mlp.{projection}.weight"]
        assert torch.equal(torch.cat(parts, 1 if projection == "down_proj" else 0), whole)
    first, second = (source.read(spec, (7, 9)) for spec in ple_tables(full))
    table = state["model.embed_tokens_per_layer.weight"][7:9].view(2, 10, 16)
    assert torch.equal(first.view(2, 8, 16), table[:, [0, 1, 2, 3, 4, 7, 8, 9]])
    assert torch.equal(second.view(2, 2, 16), table[:, [5, 6]])


def test_every_size_computes_what_it_does_alone(source: Source) -> None:
    for size in choose_sizes(SIZES, source.text):
        nested, alone = (source.sliced(size.plan, shape) for shape in (size.config, size.config.whole))
        got, want = (Reference(c).logits(IDS) for c in (nested, alone))
        assert (got - want).abs().max() < 1e-4 * want.abs().max()


def test_the_smallest_is_rounded_as_if_it_were_alone(source: Source) -> None:
    """To the last bit; the largest has more scales than alone, and so other ones."""
    full, small, _ = choose_sizes(SIZES, source.text)
    for size, same in ((small, True), (full, False)):
        nested, alone = (source.sliced(size.plan, shape) for shape in (size.config, size.config.whole))
        got, want = (Reference(c, RECIPES["int4"]).logits(IDS) for c in (nested, alone))
        assert torch.equal(got, want) == same


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("full",), "two or more"),
        (("full", "full"), "two or more"),
        (("full", "e2b"), "names a published slice of E4B"),
        (("full", "quarter"), "not a size"),
        (("full", "9" * 5000), "not a size"),
        (("full", "half-" + "9" * 5000), "not a size"),
        (("full", "half-2"), "has a cache of its own"),
        (("full", "half-4"), "cannot be skipped"),
        (("full", "48"), "multiple of 32"),
        (("half", "full-5"), "is not part of"),
    ],
)
def test_refused(source: Source, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(SliceError, match=message):
        choose_sizes(names, source.text)


def test_published_sizes_nest() -> None:
    largest, small = choose_sizes(("e2b", "e4b"), E4B)
    assert (largest.name, small.name) == ("e4b", "e2b")
    assert set(largest.config.ffn_blocks[:20] + largest.config.ffn_blocks[25:]) == {(8192, 8192)}
    assert set(largest.config.ffn_blocks[20:25]) == {(16384,)}
    assert small.config == replace(small.config.whole, ffn_blocks=((8192,),) * 30, ple_groups=(tuple(range(30)),))
