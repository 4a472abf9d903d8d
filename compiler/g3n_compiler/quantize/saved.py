"""A recipe as JSON: in a bundle's manifest, and in a file of the user's from which it is used again.

{"roles": {"attention": "int4", ...}, "patterns": {"layers.3.mlp.down_proj": "int8"}}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from g3n_compiler.errors import TargetError
from g3n_compiler.quantize.recipe import AUTO, INT2, INT4, INT8, RECIPES, Recipe, Scheme
from g3n_runtime.names import meant, unknown
from g3n_runtime.reading import read_json_object

if TYPE_CHECKING:  # torch comes with it
    from g3n_compiler.models.weights import WeightSpec

SUFFIX = ".json"
MAX_BYTES = 4 << 20
"""For the user's file; E4B has 400 matrices."""
SCHEMES = {scheme.label: scheme for scheme in (INT2, INT4, INT8)}
ONLY_INT8 = ("vision", "audio")
"""Roles that have not been tried with fewer bits."""
INT2_ROLES = ("attention", "ffn")
"""Roles whose matrices can have 2 bits."""
SHORT_HASH = 8
_ROLES, _WEIGHTS = "roles", "patterns"


def find_recipe(asked: str) -> Recipe:
    """The recipe of this name, or in the file of this name if it ends in ``.json``.

    For ``auto`` it is the largest recipe that can be chosen later, so that what is planned for it is enough.

    Raises:
        TargetError: there is none, or the file holds none; the message says what is wrong.
    """
    if asked == AUTO:
        return mixed(AUTO, dict.fromkeys(RECIPES["int8"].roles, INT8), {})
    if asked.endswith(SUFFIX):
        return read_recipe(Path(asked))
    if asked not in RECIPES:
        raise TargetError(unknown("recipe", asked, [*RECIPES, AUTO]))
    return RECIPES[asked]


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file that ``g3n-inspect --recipe`` wrote; its name tells one content from another."""
    found = read_json_object(path, TargetError, MAX_BYTES)
    recipe = _chosen(AUTO, found, str(path))
    content = json.dumps(as_json(recipe), sort_keys=True)
    return _chosen(f"saved-{hashlib.sha256(content.encode()).hexdigest()[:SHORT_HASH]}", found, str(path))


def recipe_of(manifest: Mapping[str, Any]) -> Recipe:
    """The recipe that a bundle was compiled with.

    Raises:
        TargetError: it has widths that this version does not have.
    """
    told = manifest["recipe"]
    return RECIPES.get(told["name"]) or _chosen(told["name"], told, "the manifest's recipe")


def as_json(recipe: Recipe) -> dict[str, dict[str, str]]:
    """What :func:`recipe_of` and :func:`read_recipe` take; the key ``patterns`` is as old as the manifest's schema."""
    return {
        _ROLES: {role: scheme.label for role, scheme in recipe.roles.items()},
        _WEIGHTS: {name: scheme.label for name, scheme in recipe.weights.items()},
    }


def require_weights(recipe: Recipe, specs: Mapping[str, WeightSpec]) -> None:
    """Raise unless every weight that ``recipe`` names is one of ``specs``, as it may be another model's, and can have
    its width.
    """
    if strange := sorted(recipe.weights.keys() - specs.keys()):
        raise TargetError(
            f"the recipe has a width for {strange[0][:80]!r}, which is no matrix of this model"
            f"{meant(strange[0], specs)} It may be for another checkpoint, slice or set of sizes"
        )
    two = [name for name, scheme in recipe.weights.items() if scheme == INT2]
    if narrow := sorted(name for name in two if specs[name].role not in INT2_ROLES):
        raise TargetError(f"the recipe has int2 in {narrow[0]}: only matrices of attention and FFN can have 2 bits")


def mixed(name: str, roles: Mapping[Any, Scheme], weights: Mapping[str, Scheme]) -> Recipe:
    """A recipe of the widths that are tried, with their tolerances."""
    known = RECIPES["int4"]
    return Recipe(
        name, "widths by weight", roles, weights, known.rewrites, known.logit_tolerance, known.layer_tolerance
    )


def _chosen(name: str, fields: Mapping[str, Any], where: str) -> Recipe:
    roles, weights = (_schemes(fields.get(key), f"{key!r} of {where}") for key in (_ROLES, _WEIGHTS))
    if roles.keys() != RECIPES["int4"].roles.keys():
        raise TargetError(f"'roles' of {where}: expected {', '.join(RECIPES['int4'].roles)}")
    if narrow := [role for role in ONLY_INT8 if roles[role] != INT8]:
        raise TargetError(f"'roles' of {where}: {narrow[0]} can only be int8")
    if narrow := [role for role, scheme in roles.items() if scheme == INT2 and role not in INT2_ROLES]:
        raise TargetError(f"'roles' of {where}: {narrow[0]} cannot be int2, only {' and '.join(INT2_ROLES)} can")
    return mixed(name, roles, weights)


def _schemes(value: Any, where: str) -> dict[str, Scheme]:
    if not isinstance(value, dict):
        raise TargetError(f"{where}: expected an object, as g3n-inspect --recipe writes it")
    if bad := [name for name, label in value.items() if not isinstance(label, str) or label not in SCHEMES]:
        raise TargetError(f"{where}: {bad[0][:80]!r} is {str(value[bad[0]])[:80]!r}, expected {' or '.join(SCHEMES)}")
    return {name: SCHEMES[label] for name, label in value.items()}
