"""Recipes as JSON: what a bundle's manifest and a user's file say comes back, and what is no recipe is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from g3n_compiler.errors import TargetError
from g3n_compiler.models.weights import Role, WeightSpec
from g3n_compiler.quantize.recipe import INT2, INT4, INT8, RECIPES, Recipe
from g3n_compiler.quantize.saved import as_json, find_recipe, mixed, recipe_of, require_weights

NAME = "layers.0.mlp.down_proj"
LEAN = {**RECIPES["int4-lean"].roles}


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any], Path]:
    def save(content: Any) -> Path:
        path = tmp_path / "mine.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return save


def test_a_saved_recipe_is_the_same_again(saved: Callable[[Any], Path]) -> None:
    made = mixed("auto", LEAN, {NAME: INT8})
    again = find_recipe(str(saved(as_json(made))))
    assert again == mixed(again.name, LEAN, {NAME: INT8}) and again.name.startswith("saved-")
    assert recipe_of({"recipe": {"name": "auto", "rewritten": True, **as_json(made)}}) == made
    other = find_recipe(str(saved(as_json(mixed("auto", LEAN, {})))))
    assert other.name != again.name, "a checkpoint that is calibrated for one is not taken for the other"


def test_named_recipes_keep_what_their_labels_do_not_say() -> None:
    told = {"recipe": {"name": "int4-rtn", **as_json(RECIPES["int4-rtn"])}}
    assert recipe_of(told) is RECIPES["int4-rtn"] is find_recipe("int4-rtn")


def test_auto_is_planned_with_its_largest_choice() -> None:
    assert set(find_recipe("auto").roles.values()) == {INT8}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"roles": {}}, "'roles' of .*: expected attention, ffn"),
        ({"roles": {**as_json(RECIPES["int4"])["roles"], "vision": "int4"}}, "vision can only be int8"),
        ({"patterns": {NAME: "int3"}}, "'int3', expected int2 or int4 or int8"),
        (
            {"roles": {**as_json(RECIPES["int4"])["roles"], "linear": "int2"}},
            "linear cannot be int2, only attention and ffn",
        ),
        ({"patterns": {NAME: ["int4"]}}, "expected int2 or int4 or int8"),
        ({"patterns": []}, "expected an object"),
    ],
)
def test_what_is_no_recipe_is_refused(saved: Callable[[Any], Path], change: dict[str, Any], why: str) -> None:
    path = saved({**as_json(RECIPES["int4"]), **change})
    with pytest.raises(TargetError, match=why):
        find_recipe(str(path))


def test_unknown_names_and_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="int4-lean, int4-rtn, auto: did you mean auto"):
        find_recipe("aut")
    with pytest.raises(TargetError, match=r"none\.json is missing"):
        find_recipe(str(tmp_path / "none.json"))


def spec(name: str, role: Role = "ffn") -> dict[str, WeightSpec]:
    return {name: WeightSpec(name, (8, 8), role, name)}


def test_widths_of_another_model_are_refused() -> None:
    recipe: Recipe = mixed("saved-1", LEAN, {NAME: INT4, "layers.7.mlp.down_proj": INT8})
    require_weights(recipe, spec(NAME) | spec("layers.7.mlp.down_proj"))
    with pytest.raises(TargetError, match=r"'layers\.7\.mlp\.down_proj', which is no matrix of this model: did you"):
        require_weights(recipe, spec(NAME))


def test_two_bits_are_for_attention_and_ffn() -> None:
    require_weights(mixed("saved-1", LEAN, {NAME: INT2}), spec(NAME))
    with pytest.raises(TargetError, match="int2 in lm_head: only matrices of attention and FFN"):
        require_weights(mixed("saved-1", LEAN, {"lm_head": INT2}), spec("lm_head", "head"))
