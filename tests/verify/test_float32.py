"""Where float32 itself is off by more than the plain limit, a right model passes and a wrong one is still found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from g3n_compiler.source import Source
from g3n_compiler.verify.checks import EXACT, Check, relative_error
from g3n_compiler.verify.float32 import float32_limit
from g3n_compiler.verify.golden import Golden
from g3n_compiler.verify.reference import Reference, hf_logits
from g3n_compiler.verify.run import _hf_checks, _run_references
from tests.conftest import TinyModel, ids_of, make_tiny

IDS = ids_of(103, 4000)
SHARPNESS = 2.0


@pytest.fixture(scope="module")
def sharp(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """Fifteen random layers of an attention so sharp that the last bit decides more than usual."""
    folder = tmp_path_factory.mktemp("sharp")
    tiny = make_tiny(folder, num_hidden_layers=15, activation_sparsity_pattern=[0.95] * 3 + [0.0] * 12)
    with torch.no_grad():
        for name, parameter in tiny.hf.named_parameters():
            if name.endswith(("q_norm.weight", "k_norm.weight")):
                parameter.mul_(SHARPNESS)
    tiny.hf.save_pretrained(folder)
    return tiny


def checks_of(source: Source) -> list[Check]:
    exact = Reference(source)
    return _hf_checks(source, exact, _run_references(source, [Golden("drawn", tuple(IDS), 100)], exact, exact))


def test_a_right_checkpoint_is_not_refused(sharp: TinyModel) -> None:
    source = sharp.open()
    assert relative_error(Reference(source).logits(IDS).numpy(), hf_logits(sharp.hf, IDS).numpy()) > EXACT
    checks = checks_of(source)
    assert all(check.passed for check in checks), checks
    assert checks[0].limit > EXACT and checks[1].limit == EXACT and len(checks[1].parts) == 16


def test_an_ordinary_checkpoint_keeps_the_plain_limit(tiny: TinyModel) -> None:
    source = tiny.open()
    exact = Reference(source)
    assert float32_limit(exact, source, IDS[:40], exact.logits(IDS[:40]).numpy()) == EXACT


@pytest.mark.parametrize(
    "change",
    [
        lambda hf: hf.model.layers[7].post_feedforward_layernorm.weight.mul_(1.002),
        lambda hf: hf.model.layers[2].altup.prediction_coefs.weight.add_(1e-3),
        lambda hf: hf.model.norm.weight.mul_(1.002),
    ],
)
def test_a_wrong_one_is_found_where_it_is_wrong(
    change: Callable[[Any], None], sharp: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sharp.open()
    hf = source.family.load_transformers(source)
    with torch.no_grad():
        change(hf)
    monkeypatch.setattr(type(source.family), "load_transformers", lambda self, source: hf)
    assert not all(check.passed for check in checks_of(source))
