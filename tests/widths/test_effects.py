"""The effect of rounding one weight, measured a layer at a time, against ``transformers`` with only it rounded."""

from __future__ import annotations

import copy

import pytest
import torch

from g3n_compiler.models.registry import text_weights
from g3n_compiler.quantize.recipe import INT2, INT4, Scheme
from g3n_compiler.quantize.rows import fake_quantize
from g3n_compiler.verify.reference import hf_logits
from g3n_compiler.widths.effects import EVERY, HEAD, MATRICES, TABLE, TOKENS, measure_effects
from tests.conftest import TinyModel, ids_of

LENGTHS = (40, 100)
"""Of the texts: the second one is cut, both are longer than the window."""


@pytest.fixture(scope="module")
def texts(tiny: TinyModel) -> list[list[int]]:
    return [ids_of(n, tiny.open().text.vocab_size, seed) for seed, n in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def effects(tiny: TinyModel, texts: list[list[int]]) -> dict[str, float]:
    return measure_effects(tiny.open(), texts, lambda line: None)


def rounded_alone(tiny: TinyModel, parameter: str, texts: list[list[int]], scheme: Scheme = INT4) -> float:
    """Mean divergence of ``transformers`` with this parameter rounded from ``transformers`` without."""
    model = copy.deepcopy(tiny.hf)
    with torch.no_grad():
        weight = model.get_parameter(parameter)
        weight.copy_(fake_quantize(weight.detach().clone(), scheme))
    parts = (texts[0], texts[1][: TOKENS - LENGTHS[0]])
    exact, other = (
        torch.log_softmax(torch.cat([hf_logits(m, ids) for ids in parts])[::EVERY], -1) for m in (tiny.hf, model)
    )
    return float((exact.exp() * (exact - other)).sum(-1, dtype=torch.float64).mean())


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("layers.0.mlp.down_proj", "model.layers.0.mlp.down_proj.weight"),
        ("layers.4.self_attn.v_proj", "model.layers.4.self_attn.v_proj.weight"),  # read by layers above
        ("layers.9.self_attn.o_proj", "model.layers.9.self_attn.o_proj.weight"),
        (HEAD, "model.embed_tokens.weight"),  # tied
        (TABLE, "model.embed_tokens_per_layer.weight"),
    ],
)
def test_the_effect_is_that_of_the_weight_alone(
    tiny: TinyModel, texts: list[list[int]], effects: dict[str, float], name: str, parameter: str
) -> None:
    want = rounded_alone(tiny, parameter, texts)
    assert want > 1e-5 and effects[name] == pytest.approx(want, rel=0.02)


def test_every_weight_that_has_a_choice_is_measured(tiny: TinyModel, effects: dict[str, float]) -> None:
    matrices = {name for name, spec in text_weights(tiny.open().text).items() if spec.role in MATRICES}
    assert effects.keys() == matrices | {HEAD, TABLE} and len(matrices) == 10 * 7 - 5 * 2
    assert min(effects.values()) > 0


def test_the_effect_of_two_bits(tiny: TinyModel, texts: list[list[int]], effects: dict[str, float]) -> None:
    two = measure_effects(tiny.open(), texts, lambda line: None, INT2)
    assert two.keys() == effects.keys() - {HEAD, TABLE}
    want = rounded_alone(tiny, "model.layers.4.self_attn.v_proj.weight", texts, INT2)
    assert two["layers.4.self_attn.v_proj"] == pytest.approx(want, rel=0.02) and want > 1e-3
