"""Rounding with feedback: the published method, the grid that is found again, and what it is good for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from g3n_compiler.calibrate import gptq
from g3n_compiler.calibrate.gptq import curvature_of, output_error, round_with_feedback
from g3n_compiler.quantize.recipe import INT4, INT4_RTN, Scheme
from g3n_compiler.quantize.rows import fake_quantize


def correlated(tokens: int, width: int) -> Tensor:
    """Inputs of which a few directions hold most, as those of a trained model."""
    return torch.randn(tokens, 8) @ torch.randn(8, width) + 0.3 * torch.randn(tokens, width)


def by_the_book(weight: Tensor, curvature: Tensor, scales: Tensor, qmax: int) -> Tensor:
    """Column by column as in section 3 of the paper, the inverse taken anew for what is left."""
    order = curvature.diagonal().argsort(descending=True, stable=True)
    left = curvature.double() + torch.eye(len(curvature)) * gptq.DAMPING * curvature.double().diagonal().mean()
    w, out = weight.double().clone(), torch.zeros_like(weight)
    rest = order.tolist()
    while rest:
        column = rest[0]
        inverse = torch.linalg.inv(left[rest][:, rest])
        rounded = (w[:, column] / scales).round().clamp(-qmax, qmax) * scales
        error = (w[:, column] - rounded) / inverse[0, 0]
        w[:, rest] -= torch.outer(error, inverse[0])
        out[:, column] = rounded
        rest = rest[1:]
    return out


def test_it_is_the_published_method() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(16, 40), correlated(200, 40)
    (curvature,) = curvature_of(x)
    scales = gptq._scales(weight, curvature.diagonal(), INT4)
    expected = by_the_book(weight, curvature, scales, INT4.qmax)
    got = gptq._round_part(weight, curvature, scales, INT4.qmax)
    assert torch.equal(got, expected.float())


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    weight, curvature = torch.randn(8, 96), curvature_of(correlated(300, 96))
    whole = round_with_feedback(weight, curvature, INT4)
    monkeypatch.setattr(gptq, "BLOCK", 7)
    differing = (round_with_feedback(weight, curvature, INT4) != whole).float().mean()
    assert differing < 0.01  # sums in another order: a tie may fall on the other side


def test_outputs_of_correlated_inputs_change_much_less() -> None:
    torch.manual_seed(2)
    weight, x = torch.randn(64, 128), correlated(4000, 128)
    seen, unseen = curvature_of(x[:2000]), curvature_of(x[2000:])
    plain, rounded = fake_quantize(weight, INT4), round_with_feedback(weight, seen, INT4)
    for curvature in seen, unseen:
        assert output_error(weight, rounded, curvature) < 0.3 * output_error(weight, plain, curvature)


def test_output_error_is_that_of_the_outputs() -> None:
    torch.manual_seed(3)
    weight, off, x = torch.randn(5, 30), torch.randn(5, 30), torch.randn(50, 30)
    expected = (x @ weight.T - x @ off.T).square().sum()
    assert output_error(weight, off, curvature_of(x)) == pytest.approx(float(expected), rel=1e-4)


def test_a_wide_matrix_goes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gptq, "WIDEST", 32)
    torch.manual_seed(4)
    weight, x = torch.randn(8, 80), correlated(500, 80)
    curvature = curvature_of(x)
    assert [len(part) for part in curvature] == [32, 32, 16]
    rounded = round_with_feedback(weight, curvature, INT4)
    assert output_error(weight, rounded, curvature) < output_error(weight, fake_quantize(weight, INT4), curvature)


@pytest.mark.parametrize("scheme", [INT4, INT4_RTN], ids=["clip search", "largest"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantising_finds_the_same_grid_again(scheme: Scheme, dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    weight = torch.randn(200, 64) * torch.logspace(-6, 6, 200)[:, None]
    weight[3] = 0
    weight[4, 1:] = 0
    rounded = round_with_feedback(weight, curvature_of(correlated(300, 64)), scheme)
    stored = rounded.to(dtype).float()
    assert torch.equal(stored, rounded)
    assert torch.equal(fake_quantize(stored, scheme), rounded)
    assert not rounded[3].any() and rounded[4, 0] == pytest.approx(float(weight[4, 0]), rel=0.07)


def test_a_row_that_feedback_leaves_short_is_rounded_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its largest integer a row would be taken for one of a finer grid."""
    monkeypatch.setattr(gptq, "_round_part", lambda weight, *_: torch.zeros_like(weight))
    torch.manual_seed(6)
    weight = torch.randn(20, 16)
    rounded = round_with_feedback(weight, curvature_of(torch.randn(50, 16)), INT4)
    assert torch.equal(fake_quantize(rounded, INT4), rounded)
    assert (rounded - weight).abs().max() < weight.abs().max() / 6


def test_inputs_that_never_came_leave_plain_rounding() -> None:
    torch.manual_seed(7)
    weight, x = torch.randn(4, 24), correlated(100, 24)
    x[:, 5:9] = 0
    rounded = round_with_feedback(weight, curvature_of(x), INT4)
    scales = rounded.abs().amax(-1) / INT4.qmax
    plain = (weight / scales[:, None]).round().clamp(-7, 7) * scales[:, None]
    assert torch.equal(rounded[:, 5:9], plain[:, 5:9])
