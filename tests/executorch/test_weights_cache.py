"""Programs where XNNPACK caches packed weights, as in ExecuTorch's builds for Android and Apple.

There executorch 1.5.1 frees the constants that XNNPACK does not pack, see ``lower/executorch/delegates/constants.py``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from g3n_runtime.executorch.model import ExecuTorchModel
from tests.conftest import ids_of
from tests.executorch.conftest import CHUNK, METHODS, Lower
from tests.executorch.weights_cache import run_with_cache


@pytest.mark.parametrize("recipe", METHODS)
def test_a_decoder_gives_the_same_logits(recipe: str, lowered: Lower, tmp_path: Path) -> None:
    one = lowered(recipe)
    model, ids = ExecuTorchModel(one.parts), ids_of(CHUNK, one.config.vocab_size)
    rows = np.concatenate((model.embeddings(ids), model.ple(ids)), -1)
    tokens = np.asarray(ids) if model.method == "forward" else rows
    assert isinstance(one.parts.model, Path) and isinstance(one.parts.tables, Path)
    given = [tokens[None], np.arange(len(ids))]
    (found,) = run_with_cache(one.parts.model, one.parts.tables, model.method, given, tmp_path)
    assert np.array_equal(found, model.call(ids, 0)[0])
