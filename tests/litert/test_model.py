"""Finished TFLite models against the eager decoder, position by position."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from g3n_compiler.verify.reference import Reference
from g3n_runtime.errors import EngineError
from tests.litert.conftest import CACHE, CONTEXT, PREFILL, WIDTHS, WINDOW, Converted

Draw = Callable[[int], list[int]]


def relative_errors(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """``max|difference| / max|expected|`` of each position."""
    assert actual.shape == expected.shape
    return np.abs(actual - expected).max(-1) / np.abs(expected).max(-1)


def test_fp32_equals_eager_at_every_position(converted: Converted, ids: Draw) -> None:
    tokens = ids(CONTEXT)
    assert len(tokens) > 4 * WINDOW
    want = Reference(converted.source).logits(tokens).numpy()
    assert relative_errors(converted.model("fp32").logits(tokens), want).max() < 1e-4


@pytest.mark.parametrize(
    "prompt",
    [
        2,  # one token through a padded chunk
        PREFILL + 1,  # a full chunk, longer than the window
        3 * PREFILL + 6,  # full chunks and a padded one
        CONTEXT,  # a padded chunk that reaches past the context
    ],
)
def test_fp32_equals_eager_after_a_prompt(converted: Converted, ids: Draw, prompt: int) -> None:
    tokens = ids(CONTEXT)[: prompt + 4]
    want = Reference(converted.source).logits(tokens).numpy()[prompt - 1 :]
    assert relative_errors(converted.model("fp32").prefilled_logits(tokens, prompt), want).max() < 1e-4


@pytest.mark.parametrize("recipe", ["int8", "int4", "int2"])
def test_quantised_equals_its_fake_quant_reference(converted: Converted, ids: Draw, recipe: str) -> None:
    """Equal to the last bits until an activation lies on a rounding edge; random weights carry that one step far."""
    tokens = ids(CONTEXT)
    want = Reference(converted.source, WIDTHS[recipe]).logits(tokens).numpy()
    noise = np.median(relative_errors(Reference(converted.source).logits(tokens).numpy(), want))
    model = converted.model(recipe)
    for errors in (
        relative_errors(model.logits(tokens), want),
        relative_errors(model.prefilled_logits(tokens, WINDOW + 4), want[WINDOW + 3 :]),
    ):
        assert errors.min() < 1e-4
        assert np.median(errors) < 0.5 * noise


def test_greedy_follows_the_logits(converted: Converted, ids: Draw) -> None:
    model, prompt = converted.model("fp32"), ids(30)
    out = model.greedy(prompt, 8)
    assert len(out) == 8
    assert out == model.logits(prompt + out)[29:-1].argmax(-1).tolist()
    assert model.greedy(prompt, 8, stop=[out[3]]) == out[: out.index(out[3])]


def test_tokens_past_the_context_are_refused(converted: Converted, ids: Draw) -> None:
    with pytest.raises(EngineError, match="context of 97"):
        converted.model("fp32").prefilled_logits(ids(CACHE + 1), CACHE + 1)
