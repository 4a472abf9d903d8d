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
from g3n_compiler.widths.choose import Choices
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
def narrower(shape: TextShape, size_of: Callable[[Recipe], int], choices: Choices) -> Choices:
    """As ``choices``, for a runtime that has kernels for 2 bits, with which attention loses little and an FFN much."""
    names = [name for name, spec in text_weights(shape).items() if spec.role in MATRICES]
    effects = dict.fromkeys([*names, HEAD, TABLE], 1e-4) | {HARMED: 1.0}
    two = {name: 1e-3 if "self_attn" in name else 10.0 for name in names}
    return Choices(shape, effects, size_of, lambda: two)


def test_two_bits_only_where_four_do_not_suffice(
    narrower: Choices, size_of: Callable[[Recipe], int], shape: TextShape
) -> None:
    least = size_of(RECIPES["int4-lean"])
    assert not narrower.choose(Bounds(least), never).weights
    recipe = narrower.choose(Bounds(least - 1), never)
    assert list(recipe.weights.values()) == [INT2] and "self_attn" in min(recipe.weights)
    assert size_of(recipe) < least
    everything = [*text_weights(shape), HEAD, TABLE]
    smallest = narrower.choose(Bounds(size_of(narrower.recipe(everything, everything))), never)
    assert set(smallest.weights.values()) == {INT2}
    with pytest.raises(TargetError, match="cannot be had: with int2 in all matrices and int4 in all tables"):
        narrower.choose(Bounds(size_of(smallest) - 1), never)


def test_two_bits_within_a_loss(narrower: Choices) -> None:
    """What all of 4 bits lose may be little enough that some matrices can have 2."""

    def loss_of(recipe: Recipe) -> float:
        return 0.01 + sum(0.5 for name, own in recipe.weights.items() if own == INT2 and "self_attn" not in name)

    recipe = narrower.choose(Bounds(loss=0.03), loss_of)
    assert recipe.weights and all("self_attn" in name and own == INT2 for name, own in recipe.weights.items())
    all_of_four = narrower.choose(Bounds(loss=0.005), loss_of)
    assert INT2 not in all_of_four.weights.values()
