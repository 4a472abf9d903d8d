"""Our decoder against ``transformers`` eager float32: every position, many shapes, chunks of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from g3n_compiler.models.eager_cache import EagerCache
from g3n_compiler.models.embedding_tables import EmbeddingTables
from g3n_compiler.models.gemma3n.decoder import TextDecoder
from g3n_compiler.models.gemma3n.transformers_model import load_hf
from g3n_compiler.models.registry import text_weights
from g3n_compiler.models.weights import LazyWeights
from g3n_compiler.source import Source
from g3n_compiler.verify.checks import EXACT, relative_error
from g3n_compiler.verify.reference import Reference, hf_greedy, hf_logits
from tests.conftest import TinyModel, ids_of, make_tiny

PATTERN = ["sliding_attention", "sliding_attention", "full_attention"]
SHAPES: dict[str, dict[str, Any]] = {
    "nano-like": {},
    "one KV head, eight heads": {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 16},
    "as many KV heads as heads": {"num_key_value_heads": 4},
    "no shared layers": {"num_kv_shared_layers": 0},
    "dense": {"activation_sparsity_pattern": [0.0] * 10},
    "3-layer pattern, last owner sliding": {
        "num_hidden_layers": 9, "layer_types": PATTERN * 3, "num_kv_shared_layers": 4,
        "activation_sparsity_pattern": [0.5] * 2 + [0.0] * 7,
    },
    "widths by layer": {"intermediate_size": [64, 128] * 5},
    "window of 4": {"sliding_window": 4},
    "two streams": {"altup_num_inputs": 2, "altup_active_idx": 0},
    "active stream 1": {"altup_active_idx": 1},
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_transformers_at_every_position(shape: str, tmp_path: Path) -> None:
    model = make_tiny(tmp_path, **SHAPES[shape])
    source = model.open()
    ids = ids_of(45, source.text.vocab_size)
    expected = hf_logits(model.hf, ids).numpy()
    assert relative_error(Reference(source).logits(ids).numpy(), expected) < EXACT


@pytest.mark.parametrize("chunks", [(1,) * 12, (40, 1, 1), (17, 16, 9), (7, 30, 1, 4), (42,)])
def test_prompt_fed_in_chunks_of_any_size(chunks: tuple[int, ...], tiny: TinyModel) -> None:
    source = tiny.open()
    ids = ids_of(sum(chunks) + 1, source.text.vocab_size)
    expected = hf_logits(tiny.hf, ids).numpy()
    decoder, tables, cache = parts(source)
    at = 0
    with torch.no_grad():
        for n in chunks:
            chunk = ids[at : at + n]
            decoder.prefill(tables.embeddings(chunk), tables.ple(chunk), torch.arange(at, at + n), cache)
            cache.advance()
            at += n
        last = ids[-1:]
        logits = decoder.decode(tables.embeddings(last), tables.ple(last), torch.tensor([at]), cache)[0]
    assert relative_error(logits.numpy(), expected[-1:]) < EXACT


def test_greedy_equals_transformers_own_cache(tiny: TinyModel) -> None:
    source = tiny.open()
    ids = ids_of(20, source.text.vocab_size)
    assert Reference(source).greedy(ids, 12)[0] == hf_greedy(tiny.hf, ids, 12)[0]


def test_model_filled_through_our_reader_is_the_saved_one(tiny: TinyModel) -> None:
    ids = ids_of(20, 4352)
    assert torch.equal(hf_logits(load_hf(tiny.open()), ids), hf_logits(tiny.hf, ids))


def parts(source: Source) -> tuple[TextDecoder, EmbeddingTables, EagerCache]:
    config = source.text
    decoder = TextDecoder(config, LazyWeights(source.read, text_weights(config)))
    return decoder, EmbeddingTables(config, source.read), EagerCache(config)
