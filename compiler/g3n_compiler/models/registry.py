"""The families that can be compiled: a new one is a folder and one line of :data:`FAMILIES`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from g3n_compiler.checkpoint.fields import Section
from g3n_compiler.errors import WrongModel
from g3n_compiler.models.embedding_tables import embedding_weights
from g3n_compiler.models.family import Family
from g3n_compiler.models.shape import TextShape
from g3n_compiler.models.weights import WeightSpec


def _gemma3n() -> Family:
    from g3n_compiler.models.gemma3n.family import Gemma3n

    return Gemma3n()


# Imported on demand, because a family brings in its towers and their libraries.
FAMILIES: dict[str, Callable[[], Family]] = {"gemma3n": _gemma3n}


def family_of(shape: TextShape) -> Family:
    """The family that ``shape`` belongs to."""
    return FAMILIES[shape.family]()


def family_for(config: Mapping[str, Any]) -> Family:
    """The family that a ``config.json`` names.

    Raises:
        WrongModel: it names no family that this compiler knows.
    """
    model_type = config.get("model_type")
    families = [make() for make in FAMILIES.values()]
    for family in families:
        if model_type in family.model_types:
            return family
    known = " or ".join(t for family in families for t in family.model_types)
    titles = " or ".join(family.title for family in families)
    raise WrongModel(f"{Section(config, 'config.json').wrong('model_type', known)}: this compiler builds {titles} only")


def text_weights(shape: TextShape) -> dict[str, WeightSpec]:
    """Every weight of the decoder, except the embedding tables, in the order of use."""
    return family_of(shape).text_weights(shape)


def dead_weights(shape: TextShape) -> dict[str, str]:
    """Tensors of a checkpoint (names within the text model) that inference never reads, each with the reason."""
    return family_of(shape).dead_weights(shape)


def core_parameter_count(shape: TextShape) -> int:
    """Parameters that a device must hold: all but the embedding tables (the published "effective" parameters)."""
    return family_of(shape).core_parameters(shape)


def parameter_count(shape: TextShape) -> int:
    """Parameters of the text model as a checkpoint stores them; the head is the token embedding."""
    return core_parameter_count(shape) + sum(math.prod(s.shape) for s in embedding_weights(shape).values())
