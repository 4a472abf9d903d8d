"""Which weights get 4 bits: the order, both bounds, and what is told when none can be kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from g3n_compiler.errors import TargetError
from g3n_compiler.models.embedding_tables import embedding_weights
from g3n_compiler.models.registry import text_weights
from g3n_compiler.models.shape import TextShape
from g3n_compiler.quantize.recipe import INT2, INT4, INT8, RECIPES, Recipe
from g3n_compiler.widths.bounds import Bounds
from g3n_compiler.widths.choose import Choices, Step
from g3n_compiler.widths.effects import HEAD, MATRICES, TABLE
from tests.conftest import TinyModel

HARMED = "layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def shape(tiny: TinyModel) -> TextShape:
    return tiny.open().text


@pytest.fixture(scope="module")
def size_of(shape: TextShape) -> Callable[[Recipe], int]:
    specs = [*text_weights(shape).values(), *embedding_weights(shape).values()]
    return lambda recipe: recipe.stored_bytes(specs)


@pytest.fixture(scope="module")
def choices(shape: TextShape, size_of: Callable[[Recipe], int]) -> Choices:
    """Every weight loses as much for each byte that it saves, but one that loses far more."""
    names = [name for name, spec in text_weights(shape).items() if spec.role in MATRICES]
    effects = dict.fromkeys([*names, HEAD, TABLE], 1e-4) | {HARMED: 1.0}
    return Choices(shape, effects, size_of)


def never(recipe: Recipe) -> float:
    raise AssertionError("no loss is measured for a size alone")


def test_the_extremes_are_int8_and_the_leanest_int4(choices: Choices, size_of: Callable[[Recipe], int]) -> None:
    widest, narrowest = (choices.choose(Bounds(size), never) for size in (1 << 40, size_of(RECIPES["int4-lean"])))
    assert size_of(widest) == size_of(RECIPES["int8"]) and widest.roles["head"] == widest.roles["embedding"] == INT8
    assert size_of(narrowest) == size_of(RECIPES["int4-lean"]) and not narrowest.weights


def test_a_size_is_kept_and_used(choices: Choices, size_of: Callable[[Recipe], int], shape: TextShape) -> None:
    matrices = [name for name, spec in text_weights(shape).items() if spec.role in MATRICES]
    least, most = size_of(RECIPES["int4-lean"]), size_of(RECIPES["int8"])
    for size in range(least, most, (most - least) // 7):
        recipe = choices.choose(Bounds(size), never)
        assert size_of(recipe) <= size
        for name in set(matrices) - recipe.weights.keys():
            wider = replace(recipe, weights={**recipe.weights, name: INT8})
            assert size_of(wider) > size, f"there is room for 8 bits in {name}"
    smallest = min(INT4.nbytes(text_weights(shape)[name].shape) for name in matrices)
    assert smallest < INT4.nbytes(text_weights(shape)[HARMED].shape)
    tight = choices.choose(Bounds(least + INT4.nbytes(text_weights(shape)[HARMED].shape)), never)
    assert set(tight.weights) == {HARMED}, "the matrix that loses most is the first to get its bits back"


def test_a_size_that_cannot_be_had(choices: Choices, size_of: Callable[[Recipe], int]) -> None:
    with pytest.raises(TargetError, match=r"--max-size of .* cannot be had: with int4 .* take"):
        choices.choose(Bounds(size_of(RECIPES["int4-lean"]) - 1), never)


def test_the_smallest_within_a_loss(choices: Choices, size_of: Callable[[Recipe], int]) -> None:
    measured: list[Recipe] = []

    def loss_of(recipe: Recipe) -> float:
        measured.append(recipe)
        return 0.5 if HARMED not in recipe.weights else 0.01

    recipe = choices.choose(Bounds(loss=0.03), loss_of)
    assert set(recipe.weights) == {HARMED} and len(measured) < 9
    assert choices.choose(Bounds(loss=0.6), loss_of).weights == {}
    everything = choices.choose(Bounds(loss=0.001), loss_of)
    assert size_of(everything) == size_of(RECIPES["int8"]), "the compile then refuses it by what it loses"


def test_a_bound_is_needed(choices: Choices) -> None:
    with pytest.raises(TargetError, match="--max-size 2GB, --max-loss 3%, or both"):
        choices.choose(Bounds(), never)


@pytest.fixture(scope="module")
def narrower(shape: TextShape, size_of: Callable[[Recipe], int]) -> Choices:
    """Of a runtime that has kernels for 2 bits, in which attention loses little, an FFN much, and the head most."""
    names = [name for name, spec in text_weights(shape).items() if spec.role in MATRICES]
    effects = dict.fromkeys([*names, HEAD, TABLE], 1e-4) | {HEAD: 5.0}
    two = {name: 1e-3 if "self_attn" in name else 10.0 for name in names}
    return Choices(shape, effects, size_of, lambda: two)


def two_bits(recipe: Recipe) -> set[str]:
    return {name for name, scheme in recipe.weights.items() if scheme == INT2}


def test_two_bits_where_they_cost_less_than_four_in_the_head(
    narrower: Choices, size_of: Callable[[Recipe], int], shape: TextShape
) -> None:
    usual, attention = size_of(RECIPES["int4"]), {n for n in narrower.recipe(()).weights if "self_attn" in n}
    assert not narrower.choose(Bounds(usual), never).weights
    recipe = narrower.choose(Bounds(usual - 1), never)
    assert len(two_bits(recipe)) == 1 and two_bits(recipe) < attention and size_of(recipe) < usual
    saved = sum(INT2.nbytes(text_weights(shape)[name].shape) for name in attention)
    recipe = narrower.choose(Bounds(usual - saved), never)
    assert two_bits(recipe) == attention and recipe.roles["head"] == INT8
    recipe = narrower.choose(Bounds(usual - saved - 1), never)
    assert recipe.roles["head"] == recipe.roles["embedding"] == INT4
    assert two_bits(recipe) < attention, "what the head saves beyond need gives attention its bits back"


def test_the_fewest_bits(narrower: Choices, size_of: Callable[[Recipe], int]) -> None:
    names = narrower.recipe(()).weights
    smallest = narrower.recipe([Step(n, 2) for n in names] + [Step(n, 4) for n in (HEAD, TABLE)])
    assert narrower.choose(Bounds(size_of(smallest)), never) == smallest
    with pytest.raises(TargetError, match="cannot be had: with int4 in all matrices, int2 in those of attention"):
        narrower.choose(Bounds(size_of(smallest) - 1), never)


def test_two_bits_within_a_loss(narrower: Choices, shape: TextShape, size_of: Callable[[Recipe], int]) -> None:
    """What 4 bits lose may be little enough that some matrices can have 2; if not, these are not measured."""

    def loss_of(recipe: Recipe) -> float:
        harmed = sum(0.5 for name, own in recipe.weights.items() if own == INT2 and "self_attn" not in name)
        return 0.01 + harmed + (0.5 if recipe.roles["head"] == INT4 else 0.0)

    recipe = narrower.choose(Bounds(loss=0.03), loss_of)
    assert two_bits(recipe) == {n for n in narrower.recipe(()).weights if "self_attn" in n}
    unmeasured = Choices(shape, dict.fromkeys([*narrower.recipe(()).weights, HEAD, TABLE], 1e-4), size_of, refuse)
    assert INT2 not in unmeasured.choose(Bounds(loss=0.005), loss_of).weights.values()
    assert INT2 not in unmeasured.choose(Bounds(size_of(RECIPES["int4"])), never).weights.values()


def refuse() -> dict[str, float]:
    raise AssertionError("2 bits are measured without need")
