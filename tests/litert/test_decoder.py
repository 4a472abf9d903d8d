"""The decoder as LiteRT gets it, in eager mode, against ``transformers``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from g3n_compiler.lower.litert.dialect import LiteRtDecoder
from g3n_compiler.models.eager_cache import EagerCache
from g3n_compiler.models.embedding_tables import EmbeddingTables
from g3n_compiler.models.registry import text_weights
from g3n_compiler.models.weights import LazyWeights
from g3n_compiler.verify.checks import EXACT, relative_error
from tests.conftest import ids_of, make_tiny


@pytest.mark.parametrize("shape", [{}, {"altup_num_inputs": 2}, {"altup_active_idx": 1}], ids=str)
def test_equals_transformers_at_every_position(shape: dict[str, Any], tmp_path: Path) -> None:
    model = make_tiny(tmp_path, **shape)
    source = model.open()
    config = source.text
    ids = ids_of(21, config.vocab_size)
    decoder = LiteRtDecoder(config, LazyWeights(source.read, text_weights(config)))
    tables, cache = EmbeddingTables(config, source.read), EagerCache(config)
    with torch.no_grad():
        logits = decoder.decode(tables.embeddings(ids), tables.ple(ids), torch.arange(len(ids)), cache)[0]
        expected = model.hf(input_ids=torch.tensor([ids])).logits[0]
    assert relative_error(logits.numpy(), expected.numpy()) < EXACT
