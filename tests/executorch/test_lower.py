"""Lowered programs under the stock runtime, against the eager decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from g3n_compiler.checkpoint.reader import Checkpoint
from g3n_compiler.errors import ContextError
from g3n_compiler.lower.executorch.lower import lower_text
from g3n_compiler.quantize.recipe import RECIPES
from g3n_runtime.errors import EngineError
from g3n_runtime.executorch import ExecuTorchModel
from tests.executorch.conftest import CHUNK, CONTEXT, Lowered, folder_bytes
from tests.executorch.test_cache import ends, split


def errors(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """``max|difference| / max|expected|`` of each position."""
    return np.abs(actual - expected).max(-1) / np.abs(expected).max(-1)


def chunked(model: ExecuTorchModel, ids: list[int], chunks: list[int]) -> np.ndarray:
    starts = [end - n + 1 for end, n in zip(ends(chunks), chunks, strict=True)]
    return np.stack([model.step(ids[s : s + n], s) for s, n in zip(starts, chunks, strict=True)])


def test_fp32_equals_eager_at_every_position(fp32: Lowered, ids: list[int]) -> None:
    expected, model = fp32.reference.logits(ids).numpy(), ExecuTorchModel(fp32.parts)
    assert errors(model.logits(ids), expected).max() < 1e-4
    for seed in range(3):
        chunks = split(len(ids), CHUNK, seed)
        assert errors(chunked(model, ids, chunks), expected[ends(chunks)]).max() < 1e-4
    assert errors(model.prefilled_logits(ids, 40), expected[39:]).max() < 1e-4


@pytest.mark.parametrize("method", ["forward", "text_decoder"])
def test_int4_equals_the_fake_quant_reference(int4: Lowered, ids: list[int], method: str) -> None:
    """A rounding that falls the other way makes a visible step; between such positions the two are equal."""
    expected, model = int4.reference.logits(ids).numpy(), ExecuTorchModel(int4.parts, method)
    found = errors(model.logits(ids), expected)
    assert np.median(found) < 0.01 and found.max() < 0.1
    assert found.min() < 1e-5
    assert np.median(errors(model.prefilled_logits(ids, 30), expected[29:])) < 0.01


def test_the_delegate_takes_the_decoder_whole(fp32: Lowered, int4: Lowered) -> None:
    assert fp32.made.partitions == {"forward": 1}
    assert int4.made.partitions["forward"] == int4.made.partitions["text_decoder"] == 1
    for lowered in (fp32, int4):
        share = lowered.made.delegation
        assert share.flop_share > 0.99 and share.op_share > 0.8
        assert not {"linear", "bmm", "mul", "_softmax", "sigmoid"} & set(share.fallbacks)


def test_prompt_tokens_skip_the_shared_layers(fp32: Lowered) -> None:
    """A prompt token more costs the KV-owning layers alone; the shared one and the head run once a call."""
    c, made = fp32.config, fp32.made
    per_token = (made.flops[CHUNK] - made.flops[CHUNK // 2]) / (CHUNK // 2)
    once = 2 * made.flops[1] - made.flops[2]
    ffn, head = 6 * c.hidden_size * c.ffn_dims[0], 2 * c.hidden_size * c.vocab_size
    assert head + ffn < once
    # The last owner needs a prompt token's keys and values only: of two owners, one runs its FFN.
    assert ffn < per_token < 3.5 * ffn


def test_a_text_past_the_context_is_refused(fp32: Lowered, ids: list[int]) -> None:
    model = ExecuTorchModel(fp32.parts)
    with pytest.raises(EngineError, match=f"context of {CONTEXT}"):
        model.prefill([*ids, 5])


@pytest.mark.parametrize(("context", "chunk"), [(1, 1), (64, 1), (64, 65), (10**6, 64)])
def test_lengths_that_do_not_fit_are_refused(checkpoint: Checkpoint, tmp_path: Path, context: int, chunk: int) -> None:
    with pytest.raises(ContextError):
        lower_text(checkpoint.text, checkpoint.read, RECIPES["fp32"], context, tmp_path, chunk=chunk)
    assert not folder_bytes(tmp_path)
