"""A tower's step over the limit is held against what the reference itself makes of a last bit of difference."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.source import Source
from g3n_compiler.verify.audio import AudioReference, golden_sound
from g3n_compiler.verify.checks import Check
from g3n_compiler.verify.layers import JITTER
from g3n_compiler.verify.tower_blocks import StepErrors, step_checks
from g3n_compiler.verify.vision import VisionReference, golden_image

JOB: Any = SimpleNamespace(recipe=RECIPES["int8"])
FAULT = 1.3


def checks(found: StepErrors) -> list[Check]:
    return list(step_checks(JOB, "vision_encoder", "litert", "a picture", found))


def some_rows() -> Tensor:
    return torch.rand(1, 64, 4, generator=torch.Generator().manual_seed(0)) + 1


def cancelling(x: Tensor) -> Tensor:
    """The last bits of ``x [1, N, K]``, made large in one row of eight."""
    y = torch.ones_like(x)
    y[:, ::8] += (x[:, ::8] * 2**20) % 1
    return y


def test_what_the_reference_does_itself_is_no_fault() -> None:
    x, found = some_rows(), StepErrors(limit=0.02)
    moved = x * (1 + JITTER * torch.randn(x.shape, generator=torch.Generator().manual_seed(9)))
    found.hold("blocks.0", cancelling(moved)[0].numpy(), cancelling, (x,))
    assert found.errors["blocks.0"] > 0.02 and found.sensitive["blocks.0"].own > 0.02
    whole, alone, half = checks(found)
    assert whole.passed and alone.passed and half.passed and "reference moves by" in alone.note
    assert whole.value == 0 and dict(whole.parts) == found.errors


def test_a_fault_further_than_the_reference_moves() -> None:
    x, found = some_rows(), StepErrors(limit=0.02)
    got = cancelling(x)[0].numpy().copy()
    got[8] += 9
    found.hold("blocks.0", got, cancelling, (x,))
    assert [check.passed for check in checks(found)] == [True, False, True]


def test_a_fault_at_every_position() -> None:
    x, found = some_rows(), StepErrors(limit=0.02)
    found.hold("blocks.0", cancelling(x)[0].numpy() * 1.05, cancelling, (x,))
    assert [check.passed for check in checks(found)] == [True, True, False]


def test_a_step_within_the_limit_is_not_asked() -> None:
    found = StepErrors(limit=0.02)
    found.hold("blocks.0", (some_rows()[0] * 1.001).numpy(), lambda x: x, (some_rows(),))
    assert not found.sensitive and len(checks(found)) == 1


@pytest.fixture(scope="module")
def nano() -> Source:
    return Source.open(checkpoint_dir())


def faulty(steps: Iterator[np.ndarray], at: int) -> Iterator[np.ndarray]:
    for number, step in enumerate(steps):
        yield step * FAULT if number == at else step


def test_the_towers_steps_are_asked_and_a_fault_is_named(nano: Source) -> None:
    """With a limit that even the right ones break: none of nano's steps moves by nearly as much as a fault."""
    assert nano.vision is not None and nano.audio is not None
    seen = VisionReference(nano, nano.vision, RECIPES["int8"])
    heard = AudioReference(nano, nano.audio, RECIPES["int8"])
    image, sound = golden_image(256), golden_sound(1.0)
    for found, at, name in (
        (seen.errors(image, faulty(seen.steps(image), 5), limit=1e-12), 5, "blocks.1.2"),
        (heard.clip_errors(sound, faulty(heard.clip_steps(sound), 2), limit=1e-12), 2, "layer 1"),
    ):
        assert found.sensitive and at, found.errors
        own, _ = found.sensitive[name]
        assert found.errors[name] == max(found.errors.values()) > 2 * own
