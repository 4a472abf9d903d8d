"""How long a graph's full caches are made, so that the engine changes them when it should and never otherwise."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from g3n_compiler.lower.litert import flatbuffer
from g3n_compiler.lower.litert.context import (
    full_cache_length,
    is_adjustable,
    require_adjustable,
    usable_context,
)
from g3n_runtime.errors import EngineError
from g3n_runtime.litert.chat import _whole_chunks
from tests.conftest import TinyModel
from tests.litert.conftest import CACHE, Converted


@pytest.mark.parametrize(
    ("context", "lengths", "length"),
    [(96, [24], 97), (97, [24], 101), (16, [8], 19), (15, [8], 15), (13, [8], 14), (4096, [128, 256], 4099)],
)
def test_a_context_becomes_a_prime_above_it_or_no_prime_at_all(
    tiny: TinyModel, context: int, lengths: list[int], length: int
) -> None:
    """The window is 16: below it rings and full caches are equally long, and 13, a prime, may not stay.

    17 divides the vocabulary.
    """
    assert full_cache_length(tiny.open().text, context, lengths) == length
    assert is_adjustable(length) == (context >= 16)


def test_a_prime_that_divides_another_dimension_is_not_taken(tiny: TinyModel) -> None:
    config = tiny.open().text
    wide = dataclasses.replace(config, ffn_dims=(2 * 97,) * config.num_layers)
    assert (full_cache_length(config, 96, [24]), full_cache_length(wide, 96, [24])) == (97, 101)


def test_a_model_without_full_layers_has_no_prime(tiny: TinyModel) -> None:
    config = dataclasses.replace(tiny.open().text, layer_types=("sliding_attention",) * 10)
    assert not is_adjustable(full_cache_length(config, 97, [24]))


def test_what_the_engine_may_use_is_whole_chunks(tiny: TinyModel) -> None:
    config = tiny.open().text
    assert [usable_context(config, n, [128, 256]) for n in (256, 257, 500, 512)] == [256, 512, 512, 512]
    assert usable_context(config, 505, [500]) == config.max_context == 512


def test_a_multiple_of_the_prime_is_refused(converted: Converted) -> None:
    model = flatbuffer.parse(converted.graph)
    require_adjustable(model, CACHE)
    model.subgraphs[0].tensors[0].shape = np.array([1, 3 * CACHE], np.int32)
    with pytest.raises(AssertionError, match="multiple"):
        require_adjustable(model, CACHE)


def test_a_context_is_rounded_up_to_whole_chunks() -> None:
    core = {"name": "core", "signatures": ["prefill_128", "prefill_256", "decode"]}
    bundle: Any = SimpleNamespace(directory=Path("nano"), manifest={"context": 1000, "subgraphs": [core]})
    assert [_whole_chunks(bundle, n) for n in (1, 256, 257, 800, 1000)] == [256, 256, 512, None, None]
    with pytest.raises(EngineError, match="--context 1001"):
        _whole_chunks(bundle, 1001)
