"""The bases of the rotary positions, in every form in which a ``config.json`` gives them.

Source: ``Gemma3nTextConfig.convert_rope_params_to_dict`` of ``transformers``, whose order of precedence this is.
"""

from __future__ import annotations

from typing import get_args

from g3n_compiler.checkpoint.fields import Section
from g3n_compiler.errors import WrongModel
from g3n_compiler.models.shape import LayerType

_LOWEST, _HIGHEST = 1e-6, 1e15
_KINDS = ("rope_type", "type")


def rope_bases(text: Section) -> tuple[float, float]:
    """The bases of full and of sliding attention.

    Raises:
        WrongModel: the positions are scaled, which Gemma 3n's are not.
    """
    scaling, rope = text.section("rope_scaling"), text.section("rope_parameters")
    full, sliding = (rope.section(kind) for kind in ("full_attention", "sliding_attention"))
    for section in (scaling, rope, full, sliding):
        _check_unscaled(section)
    extra = set(scaling.names()) - {*_KINDS, "rope_theta"}
    if extra and scaling.raw("rope_type") != "default":
        raise WrongModel(f"{scaling.where} sets {min(extra)[:80]!r}: scaled RoPE is not part of Gemma 3n")
    # what rope_scaling sets is put over the entry of full attention
    own = scaling if "rope_theta" in scaling else full
    return _base(own, text, "rope_theta", 1e6), _base(sliding, text, "rope_local_base_freq", 1e4)


def flat_base(text: Section) -> str | None:
    """A sentence if ``rope_parameters`` has a base that belongs to no kind of attention, which nothing reads."""
    rope = text.section("rope_parameters")
    if "rope_theta" not in rope:
        return None
    return (
        f"{rope.where} has a rope_theta beside {' and '.join(get_args(LayerType))}: it is ignored, because "
        "transformers takes one from each of these, or its default"
    )


def _base(entry: Section, text: Section, flat: str, default: float) -> float:
    section, name = (entry, "rope_theta") if "rope_theta" in entry else (text, flat)
    return section.number(name, default, _LOWEST, _HIGHEST)


def _check_unscaled(section: Section) -> None:
    for name in _KINDS:
        if section.raw(name) not in (None, "default"):
            raise WrongModel(f"{section.wrong(name, 'default')}: scaled RoPE is not part of Gemma 3n")
