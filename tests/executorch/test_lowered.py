"""Lowered programs under the stock runtime, against the eager decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from g3n_compiler.checkpoint.reader import Checkpoint
from g3n_compiler.errors import ContextError
from g3n_compiler.lower.executorch.lower import build_methods, check_lengths
from g3n_compiler.lower.executorch.program import export_method
from g3n_compiler.lower.executorch.weights import XnnpackWeights
from g3n_compiler.modules.weights import text_weights
from g3n_compiler.quantize.recipe import RECIPES, get_recipe
from g3n_compiler.verify.parity import EXACT, relative_error
from g3n_runtime.errors import EngineError
from g3n_runtime.executorch import ExecuTorchModel
from tests.executorch.conftest import CHUNK, CONTEXT, METHODS, WINDOW, Lower, lower
from tests.executorch.test_cache import split
from tests.modules.test_decoder import ids_of


@pytest.mark.parametrize("recipe", METHODS)
def test_program_equals_its_reference(recipe: str, lowered: Lower) -> None:
    """Token by token and prefilled in chunks, far beyond the window; int4 has both widths of weight."""
    one = lowered(recipe)
    ids = ids_of(5 * WINDOW, one.config.vocab_size)
    expected, model = one.reference.logits(ids).numpy(), ExecuTorchModel(one.parts)
    assert model.method == METHODS[recipe][-1]
    limit = EXACT if recipe == "fp32" else get_recipe(recipe).logit_tolerance
    found = model.logits(ids)
    assert relative_error(found, expected) < limit
    assert relative_error(model.prefilled_logits(ids, 70), expected[69:]) < limit
    # A rounding that falls the other way makes a visible step; where none does, the two are equal.
    assert min(relative_error(a[None], b[None]) for a, b in zip(found, expected, strict=True)) < 1e-5


def test_chunks_of_any_size_reach_the_same_logits(lowered: Lower) -> None:
    one = lowered("fp32")
    ids = ids_of(5 * WINDOW, one.config.vocab_size)
    expected, model = one.reference.logits(ids).numpy(), ExecuTorchModel(one.parts)
    for seed in range(3):
        at = 0
        for n in split(len(ids), CHUNK, seed):
            logits = model.step(ids[at : at + n], at)
            at += n
            assert relative_error(logits[None], expected[at - 1 : at]) < EXACT, f"after position {at - 1}"


@pytest.mark.parametrize("recipe", METHODS)
def test_decoder_is_one_delegated_graph(recipe: str, lowered: Lower) -> None:
    made = lowered(recipe).made
    assert set(made.partitions.values()) == {1}
    assert made.delegation.flop_share > 0.97 and made.delegation.op_share > 0.8, made.delegation
    assert not {"linear", "bmm", "mul", "_softmax", "sigmoid", "rsqrt"} & set(made.delegation.fallbacks)


def test_prompt_tokens_skip_the_shared_layers(checkpoint: Checkpoint) -> None:
    """Linears of the owning layers see every token, those of the shared layers and the head the last one."""
    config = checkpoint.text
    weights = XnnpackWeights(text_weights(config), RECIPES["fp32"], checkpoint.read)
    method = build_methods(config, weights, RECIPES["fp32"], CONTEXT, CHUNK, ("text_decoder",))[0]
    wide = {config.ffn_dims[0]: [0, 0], config.vocab_size: [0, 0]}
    for node in export_method(method, CHUNK).graph.nodes:
        if node.op == "call_function" and "linear" in str(node.target):
            shape = node.meta["val"].shape
            if shape[-1] in wide:
                wide[shape[-1]][0 if all(isinstance(n, int) for n in shape) else 1] += 1
    # Gate and up of the first layer over all tokens; of the last owner, which prompts need for its cache alone, and
    # of the shared layer over the last token; the head over the last token.
    assert wide == {config.ffn_dims[0]: [4, 2], config.vocab_size: [1, 0]}


def test_same_input_same_bytes(lowered: Lower, checkpoint: Checkpoint, tmp_path: Path) -> None:
    first, again = lowered("fp32").made, lower(checkpoint, "fp32", tmp_path)
    assert again.model.read_bytes() == first.model.read_bytes()
    assert again.tables.read_bytes() == first.tables.read_bytes()


def test_a_tied_head_is_stored_once(lowered: Lower) -> None:
    """The program holds no second copy of the int8 table that its head is."""
    one = lowered("int4")
    head = one.config.vocab_size * one.config.hidden_size
    assert one.made.file.layouts["embed_tokens"].bits == 8
    assert one.made.model.stat().st_size < head + sum(
        int(np.prod(s.shape)) for n, s in text_weights(one.config).items() if n != "lm_head"
    )


def test_a_text_past_the_context_is_refused(lowered: Lower) -> None:
    model = ExecuTorchModel(lowered("fp32").parts)
    with pytest.raises(EngineError, match=f"context of {CONTEXT}"):
        model.prefill(ids_of(CONTEXT + 1, 100))


@pytest.mark.parametrize(("context", "chunk"), [(1, 2), (10_000, 2), (64, 65), (64, 1)])
def test_lengths_that_do_not_fit(context: int, chunk: int, checkpoint: Checkpoint) -> None:
    with pytest.raises(ContextError):
        check_lengths(checkpoint.text, context, chunk)
