"""Lowered programs under the stock runtime, against the eager decoder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from g3n_compiler.errors import ContextError
from g3n_compiler.lower.executorch.cache import STEP
from g3n_compiler.lower.executorch.delegates.weight_store import store_weights
from g3n_compiler.lower.executorch.program import export_method
from g3n_compiler.lower.executorch.text import build_methods, check_lengths
from g3n_compiler.lower.executorch.weights import checkpoint_parts
from g3n_compiler.models.registry import text_weights
from g3n_compiler.quantize.recipe import RECIPES, get_recipe
from g3n_compiler.source import Source
from g3n_compiler.verify.checks import EXACT, relative_error
from g3n_compiler.verify.reference import Reference
from g3n_runtime.errors import EngineError
from g3n_runtime.executorch.model import ExecuTorchModel, ExecuTorchParts
from tests.conftest import ids_of
from tests.executorch.conftest import CHUNK, CONTEXT, LONG, METHODS, WINDOW, Lower, eager_pieces, lower
from tests.executorch.test_cache import split


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


def test_the_whole_of_a_long_context_is_reached(source: Source, tmp_path: Path) -> None:
    """Prefilled and token by token, over the border of what is read of a full layer."""
    made = lower(source, "fp32", tmp_path, LONG)
    ids = ids_of(LONG, source.text.vocab_size)
    expected = Reference(source).logits(ids).numpy()
    model = ExecuTorchModel(ExecuTorchParts(made.model, made.tables))
    assert relative_error(model.logits(ids), expected) < EXACT
    found = model.prefilled_logits(ids[: STEP + 3], STEP - 3)
    assert relative_error(found, expected[STEP - 4 : STEP + 3]) < EXACT


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
def test_arithmetic_is_delegated(recipe: str, lowered: Lower) -> None:
    made = lowered(recipe).made
    assert made.delegation.flop_share > 0.97 and made.delegation.op_share > 0.8, made.delegation
    assert not {"linear", "bmm", "tanh", "_softmax", "sigmoid", "rsqrt"} & set(made.delegation.fallbacks)


def test_prompt_tokens_skip_the_shared_layers(source: Source) -> None:
    """Which weights of the graph are multiplied with every token, and which with the last one alone."""
    config, specs = source.text, text_weights(source.text)
    pieces = eager_pieces(source, "fp32")
    (method,) = build_methods(config, pieces, RECIPES["fp32"], CONTEXT, CHUNK, ("forward",))
    linears = {s.name.replace(".", "_"): s.name for s in specs.values() if s.role != "float"}
    seen: dict[bool, set[str]] = {True: set(), False: set()}
    for node in export_method(method, CHUNK).graph.nodes:
        if node.op == "call_function" and "linear" in str(node.target):
            name = linears.get(node.args[1].name.partition("_weights_")[2])
            if name is not None:
                seen[all(isinstance(n, int) for n in node.meta["val"].shape)].add(name)
    last = f"layers.{config.num_kv_layers - 1}.self_attn."
    every = {n for n in specs if n.startswith(("layers.0.", "altup_projections.")) and specs[n].role != "float"}
    assert seen[False] == every | {last + "k_proj", last + "v_proj"}
    assert seen[True] == set(linears.values()) - seen[False]


def test_same_input_same_bytes(lowered: Lower, source: Source, tmp_path: Path) -> None:
    """The second time in a process of its own, whose sets and dicts of strings hash in another order, and which goes on
    from a run that was killed over the weights."""
    first, specs = lowered("fp32").made, text_weights(source.text)
    folder = tmp_path / "weights"
    folder.mkdir()
    some = dict(list(specs.items())[: len(specs) // 2])
    store_weights(some, RECIPES["fp32"], checkpoint_parts(source.read), folder, {})
    script = (
        "import sys; from pathlib import Path; from g3n_compiler.source import Source;"
        "from tests.executorch.conftest import lower;"
        "lower(Source.open(Path(sys.argv[1])), 'fp32', Path(sys.argv[2]))"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, str(source.directory), str(tmp_path)]
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / first.model.name).read_bytes() == first.model.read_bytes()
    assert (tmp_path / first.tables.name).read_bytes() == first.tables.read_bytes()
    assert not folder.exists()


def test_a_tied_head_is_stored_once(lowered: Lower) -> None:
    """The program holds no second copy of the int8 table that its head is."""
    made = lowered("int4").made
    table, model = made.file.layouts["embed_tokens"], made.model.read_bytes()
    rows = made.tables.read_bytes()[table.values_offset :][: 8 * table.row_bytes]
    assert table.bits == 8 and any(rows)
    assert rows not in model


def test_a_text_past_the_context_is_refused(lowered: Lower) -> None:
    model = ExecuTorchModel(lowered("fp32").parts)
    with pytest.raises(EngineError, match=f"context of {CONTEXT}"):
        model.prefill(ids_of(CONTEXT + 1, 100))


@pytest.mark.parametrize(("context", "chunk"), [(1, 2), (10_000, 2), (64, 65), (64, 1)])
def test_lengths_that_do_not_fit(context: int, chunk: int, source: Source) -> None:
    with pytest.raises(ContextError):
        check_lengths(source.text, context, chunk)
