"""Which size the policy picks, and how a token is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from g3n_runtime.chat import Sampler
from g3n_runtime.errors import EngineError
from g3n_runtime.litert.size_policy import SizePolicy
from g3n_runtime.sampling import draw

SIZES = [
    {"name": "large", "core_bytes": 4000, "peak": {"load": 5000, "prefill": 6000}},
    {"name": "middle", "core_bytes": 2000, "peak": {"load": 2500, "prefill": 3000}},
    {"name": "small", "core_bytes": 1000, "peak": {"load": 1500, "prefill": 1600}},
]


@pytest.mark.parametrize(("memory", "size"), [(6000, "large"), (5999, "middle"), (1600, "small")])
def test_the_largest_that_fits(memory: int, size: str) -> None:
    assert SizePolicy(SIZES).choose(memory) == size


def test_nothing_fits() -> None:
    with pytest.raises(EngineError, match="the smallest, small"):
        SizePolicy(SIZES).choose(1599)


def test_speed_is_inferred_from_bytes_until_it_is_seen() -> None:
    policy = SizePolicy(SIZES, target_speed=15)
    assert policy.choose(9999) == "large"
    policy.observe("large", 10)
    assert policy.speed("small") == 40 and policy.choose(9999) == "middle"
    policy.observe("middle", 14)
    assert policy.choose(9999) == "small"
    policy.observe("small", 12)
    assert policy.choose(9999) == "small"
    policy.observe("large", 16)
    assert policy.choose(9999) == "large"


def test_sampling() -> None:
    logits = np.log(np.array([0.1, 0.5, 0.3, 0.1], np.float32))
    generator = np.random.default_rng(0)
    assert draw(logits, Sampler(temperature=0), generator) == 1
    assert {draw(logits, Sampler(top_k=2, top_p=1.0), generator) for _ in range(50)} == {1, 2}
    assert {draw(logits, Sampler(top_p=0.5), generator) for _ in range(50)} == {1}
    assert {draw(logits, Sampler(top_p=1.0), generator) for _ in range(200)} == {0, 1, 2, 3}
