"""A three-layer model through ExecuTorch: cache, program, tables and the stock runner against eager."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from g3n_compiler.checkpoint.reader import Checkpoint
from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.errors import ContextError
from g3n_compiler.lower.executorch.lower import ExecuTorchArtifacts, build_methods, check_lengths, lower_text
from g3n_compiler.lower.executorch.program import export_method
from g3n_compiler.lower.executorch.weights import XnnpackWeights
from g3n_compiler.modules.embedder import EmbeddingTables
from g3n_compiler.modules.weights import text_weights
from g3n_compiler.quantize.recipe import RECIPES, get_recipe
from g3n_compiler.verify.parity import EXACT, relative_error
from g3n_compiler.verify.reference import Reference
from g3n_runtime.engine import GREEDY, Sampler
from g3n_runtime.errors import EngineError
from g3n_runtime.executorch import ExecuTorchChat, ExecuTorchModel, ExecuTorchParts
from tests.conftest import make_tiny
from tests.modules.test_decoder import ids_of

CONTEXT, CHUNK, WINDOW = 96, 24, 16
Lower = Callable[[str], ExecuTorchArtifacts]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make_tiny(
        tmp_path_factory.mktemp("executorch"),
        num_hidden_layers=3,
        num_kv_shared_layers=1,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        sliding_window=WINDOW,
        activation_sparsity_pattern=[0.95, 0.0, 0.0],
    ).open()


@pytest.fixture(scope="module")
def lowered(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Lower:
    """Each recipe's program, lowered once."""
    folder = tmp_path_factory.mktemp("lowered")
    made: dict[str, ExecuTorchArtifacts] = {}

    def lower(recipe: str) -> ExecuTorchArtifacts:
        if recipe not in made:
            made[recipe] = lower_text(
                checkpoint.text, checkpoint.read, get_recipe(recipe), CONTEXT, folder / recipe, chunk=CHUNK
            )
        return made[recipe]

    return lower


def parts_of(made: ExecuTorchArtifacts, checkpoint: Checkpoint) -> ExecuTorchParts:
    return ExecuTorchParts(made.model, made.tables, checkpoint.directory / "tokenizer.json")


@pytest.mark.parametrize("chunks", [(1,) * 40, (24, 24, 1, 5), (16, 17, 24), (7, 1, 23, 2, 24, 24)])
def test_chunks_of_any_size_equal_eager(chunks: tuple[int, ...], checkpoint: Checkpoint) -> None:
    config = checkpoint.text
    weights = XnnpackWeights(text_weights(config), RECIPES["fp32"], checkpoint.read)
    method = build_methods(config, weights, RECIPES["fp32"], CONTEXT, CHUNK, ("text_decoder",))[0]
    tables = EmbeddingTables(config, checkpoint.read)
    ids = ids_of(sum(chunks), config.vocab_size)
    expected = Reference(checkpoint).logits(ids).numpy()
    at = 0
    for n in chunks:
        part = ids[at : at + n]
        rows = torch.cat((tables.embeddings(part), tables.ple(part).view(1, n, -1)), -1)
        with torch.no_grad():
            logits = method.module(rows, torch.arange(at, at + n))
        at += n
        assert relative_error(logits[0].numpy(), expected[at - 1 : at]) < EXACT, at


@pytest.mark.parametrize("recipe", ["fp32", "int4"])
def test_program_equals_its_reference(recipe: str, lowered: Lower, checkpoint: Checkpoint) -> None:
    """Token by token and prefilled in chunks, beyond the window; int4 has both widths of weight."""
    reference = Reference(checkpoint, None if recipe == "fp32" else get_recipe(recipe))
    ids = ids_of(60, checkpoint.text.vocab_size)
    expected = reference.logits(ids).numpy()
    limit = EXACT if recipe == "fp32" else get_recipe(recipe).logit_tolerance
    model = ExecuTorchModel(parts_of(lowered(recipe), checkpoint))
    assert relative_error(model.logits(ids), expected) < limit
    assert relative_error(model.prefilled_logits(ids, 50), expected[49:]) < limit


@pytest.mark.parametrize("recipe", ["fp32", "int4"])
def test_decoder_is_one_delegated_graph(recipe: str, lowered: Lower) -> None:
    made = lowered(recipe)
    assert made.partitions == {"forward": 1}
    assert made.delegation.flop_share > 0.97 and made.delegation.op_share > 0.8, made.delegation
    assert not any("linear" in op or "mm" in op for op in made.delegation.fallbacks), made.delegation


@pytest.mark.parametrize("recipe", ["fp32", "int4"])
def test_mapped_rows_equal_the_tables(recipe: str, lowered: Lower, checkpoint: Checkpoint) -> None:
    config = checkpoint.text
    tables = EmbeddingTables(config, checkpoint.read, None if recipe == "fp32" else get_recipe(recipe))
    model = ExecuTorchModel(parts_of(lowered(recipe), checkpoint))
    ids = [0, 5, config.ple_vocab_size - 1, config.ple_vocab_size, config.vocab_size - 1]
    np.testing.assert_allclose(model.embeddings(ids), tables.embeddings(ids)[0].numpy(), rtol=1e-6)
    np.testing.assert_allclose(model.ple(ids), tables.ple(ids).numpy().reshape(len(ids), -1), rtol=1e-6)
    assert np.array_equal(model.ple(ids)[0], model.ple(ids)[-1])


def test_prompt_tokens_skip_the_shared_layers(checkpoint: Checkpoint) -> None:
    """Linears of the owning layers see every token, those of the shared layers and the head the last one."""
    config = checkpoint.text
    weights = XnnpackWeights(text_weights(config), RECIPES["fp32"], checkpoint.read)
    method = build_methods(config, weights, RECIPES["fp32"], CONTEXT, CHUNK, ("text_decoder",))[0]
    graph = export_method(method, CHUNK).graph
    wide = {config.ffn_dims[0]: [0, 0], config.vocab_size: [0, 0]}
    for node in graph.nodes:
        if node.op == "call_function" and "linear" in str(node.target):
            shape = node.meta["val"].shape
            if shape[-1] in wide:
                wide[shape[-1]][0 if all(isinstance(n, int) for n in shape) else 1] += 1
    # Query, gate and up (all 128 wide) of the first layer run over all tokens; those of the last owner, of which
    # prompts need the keys and values alone, and of the shared layer over the last token, and so does the head.
    assert wide == {128: [6, 3], config.vocab_size: [1, 0]}


def test_stock_runner_says_the_greedy_tokens(lowered: Lower, checkpoint: Checkpoint) -> None:
    tokenizer = load_tokenizer(checkpoint.directory, checkpoint.text)
    parts = parts_of(lowered("fp32"), checkpoint)
    ids = tokenizer.chat("What is a river?")
    tokens = ExecuTorchModel(parts).greedy(ids, 20, tokenizer.stop_ids)
    chat = ExecuTorchChat(parts, "<start_of_turn>user\n{prompt}<end_of_turn>\n<start_of_turn>model\n")
    said = "".join(chat.send("What is a river?", GREEDY, 20))
    assert said.replace("▁", " ").strip() == tokenizer.decode(tokens).replace("▁", " ").strip()
    chat.reset()
    assert "".join(chat.send("What is a river?", GREEDY, 20)) == said
    with pytest.raises(EngineError, match="context"):
        list(chat.send("river " * 200, GREEDY, 20))
    with pytest.raises(EngineError, match="temperature"):
        list(chat.send("river", Sampler(temperature=3.0), 20))


def test_same_input_same_bytes(lowered: Lower, checkpoint: Checkpoint, tmp_path: Path) -> None:
    first = lowered("fp32")
    again = lower_text(checkpoint.text, checkpoint.read, RECIPES["fp32"], CONTEXT, tmp_path, chunk=CHUNK)
    assert again.model.read_bytes() == first.model.read_bytes()
    assert again.tables.read_bytes() == first.tables.read_bytes()


@pytest.mark.parametrize(("context", "chunk"), [(1, 2), (10_000, 2), (64, 65), (64, 1)])
def test_lengths_that_do_not_fit(context: int, chunk: int, checkpoint: Checkpoint) -> None:
    with pytest.raises(ContextError):
        check_lengths(checkpoint.text, context, chunk)
