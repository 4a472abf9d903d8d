"""Nano end to end: what the emitted bundles say, token by token, against ``transformers``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from g3n_compiler.checkpoint.tokenizer import TextTokenizer, load_tokenizer
from g3n_compiler.lower.registry import BACKENDS, get_backend
from g3n_compiler.lower.subgraphs import Runtime
from g3n_compiler.models.gemma3n.transformers_model import load_hf
from g3n_compiler.nano import checkpoint_dir, heldout_path
from g3n_compiler.nano.tasks import first_of_each, read_examples
from g3n_compiler.source import Source
from g3n_compiler.verify.checks import MARGIN
from g3n_compiler.verify.reference import hf_greedy
from g3n_runtime.bundle import open_bundle
from g3n_runtime.chat import GREEDY
from g3n_runtime.engines import open_engine
from g3n_runtime.errors import ContextFull, EngineError
from tests.e2e.conftest import run

PROMPTS, TOKENS = 20, 64
ASKED = ("lookup", "lookup-300", "recall", "system", "json", "copy")
Expected = list[tuple[list[int], list[int], list[float]]]


def heldout_prompts(tokenizer: TextTokenizer) -> list[list[int]]:
    """The user turns of the first held-out chats."""
    prompts = []
    for line in heldout_path().read_text(encoding="utf-8").splitlines():
        head, answer, _ = json.loads(line)["text"].partition("<start_of_turn>model\n")
        if answer and len(prompts) < PROMPTS:
            prompts.append([tokenizer.bos_id, *tokenizer.encode(head + answer)])
    return prompts


@pytest.fixture(scope="module")
def source() -> Source:
    return Source.open(checkpoint_dir())


@pytest.fixture(scope="module")
def tokenizer(source: Source) -> TextTokenizer:
    return load_tokenizer(source.directory, source.text)


@pytest.fixture(scope="module")
def expected(source: Source, tokenizer: TextTokenizer) -> Expected:
    """Prompt ids, greedy tokens and margins by ``transformers`` in float32."""
    model = load_hf(source)
    return [(ids, *hf_greedy(model, ids, TOKENS)) for ids in heldout_prompts(tokenizer)]


@pytest.mark.parametrize("runtime", list(BACKENDS))
def test_fp32_greedy_tokens_equal_transformers(runtime: Runtime, nano_fp32: Path, expected: Expected) -> None:
    assert len(expected) == PROMPTS
    _, model = next(get_backend(runtime).open_models(open_bundle(nano_fp32).paths))
    close_calls = []
    for number, (ids, tokens, margins) in enumerate(expected):
        got = model.greedy(ids, TOKENS)
        assert len(got) == TOKENS
        first = next((i for i in range(TOKENS) if got[i] != tokens[i]), None)
        if first is not None:
            assert margins[first] < MARGIN, f"prompt {number}, token {first}"
            close_calls.append((number, first, margins[first]))
    assert len(close_calls) <= 2, close_calls


@pytest.mark.parametrize("runtime", list(BACKENDS))
def test_stock_engine_says_what_transformers_would(
    runtime: Runtime, nano_fp32: Path, tokenizer: TextTokenizer, expected: Expected, source: Source
) -> None:
    model = load_hf(source)
    engine = open_engine(open_bundle(nano_fp32), runtime)
    try:
        for prompt in ("What is a river?", 'Use "house" in a sentence.', "What does 'quickly' mean?"):
            tokens, _ = hf_greedy(model, tokenizer.chat(prompt), 40)
            stop = next((i for i, t in enumerate(tokens) if t in tokenizer.stop_ids), len(tokens))
            said = "".join(engine.send(prompt, GREEDY, 40))
            engine.reset()
            assert said.strip() == tokenizer.decode(tokens[:stop]).strip()
    finally:
        engine.close()


@pytest.mark.parametrize("runtime", list(BACKENDS))
def test_chat_keeps_earlier_turns(runtime: Runtime, nano_fp32: Path, source: Source, tokenizer: TextTokenizer) -> None:
    """The second answer is the reference's after both turns, not after the second alone."""
    engine = open_engine(open_bundle(nano_fp32), runtime)
    first, second = "What does 'quickly' mean?", "Use 'quickly' in a sentence."
    try:
        one = "".join(engine.send(first, GREEDY, 60)).strip()
        two = "".join(engine.send(second, GREEDY, 60)).strip()
        engine.reset()
        alone = "".join(engine.send(first, GREEDY, 60)).strip()
    finally:
        engine.close()
    assert one == alone
    messages = [("user", first), ("assistant", one), ("user", second)]
    ids = tokenizer.ids([{"role": role, "content": content} for role, content in messages])
    tokens, _ = hf_greedy(load_hf(source), ids, 60)
    stop = next((i for i, t in enumerate(tokens) if t in tokenizer.stop_ids), len(tokens))
    assert two == tokenizer.decode(tokens[:stop]).strip()


@pytest.mark.parametrize("runtime", list(BACKENDS))
@pytest.mark.parametrize("bundle", ["nano_fp32", "nano_int4"])
def test_stock_engine_solves_tasks(runtime: Runtime, bundle: str, request: pytest.FixtureRequest) -> None:
    """Questions with one right answer, asked as a user asks them: a system text, an earlier turn, a list far back."""
    opened = open_bundle(request.getfixturevalue(bundle))
    asked = [e for e in first_of_each(read_examples(), 3) if e.task in ASKED]
    engine = open_engine(opened, runtime)
    right = 0
    try:
        for example in asked:
            engine.reset()
            engine.conversation.system = example.system or None
            said = ["".join(engine.send(user, GREEDY, 40)).strip() for user, _ in example.turns]
            right += said == [model for _, model in example.turns]
    finally:
        engine.close()
    assert right >= len(asked) - 1, f"{right} of {len(asked)}"


@pytest.mark.parametrize("bundle", ["nano_fp32", "nano_int4"])
def test_a_compile_counts_right_answers(bundle: str, request: pytest.FixtureRequest) -> None:
    scores = open_bundle(request.getfixturevalue(bundle)).manifest["parity"]["tasks"]
    assert {s["runtime"] for s in scores} == set(BACKENDS)
    for runtime in BACKENDS:
        own = [s for s in scores if s["runtime"] == runtime]
        assert sum(s["right"] for s in own) >= 0.85 * sum(s["examples"] for s in own), own


def test_interactive_chat(nano_int4: Path, workspace: Path) -> None:
    command = "g3n-run exported/nano-host-int4 --temperature 0 --max-tokens 20"
    result = run(command, workspace, "What is a dog?\n/reset\n/exit\n")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


@pytest.mark.parametrize("runtime", list(BACKENDS))
@pytest.mark.parametrize("program", ["g3n-run", "python -m g3n_runtime"])
def test_engines_are_silent(program: str, runtime: Runtime, nano_int4: Path, workspace: Path) -> None:
    """Down to the end of the process, when some engines speak last."""
    result = run(f"{program} {nano_int4} --runtime {runtime} --temperature 0 'What is a dog?'", workspace)
    assert result.returncode == 0 and result.stdout.strip() and result.stderr == ""


SLOWLY = """
import sys, time
from pathlib import Path
from g3n_runtime.bundle import open_bundle
from g3n_runtime.chat import GREEDY
from g3n_runtime.engines import open_engine
engine = open_engine(open_bundle(Path(sys.argv[1])), "executorch")
for piece in engine.send("Reverse: stone river house", GREEDY, 40):
    time.sleep(0.1)
    sys.stdout.write(piece)
    sys.stdout.flush()
engine.close()
"""


def test_what_the_runner_prints_at_its_end_is_not_in_the_answer(nano_int4: Path) -> None:
    """It ends a line of its own when it is done, which must not be before its words are read."""
    done = subprocess.run(
        [sys.executable, "-c", SLOWLY, str(nano_int4)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0 and done.stdout.rstrip("\n") == "Reversed: house river stone", done


def test_a_context_is_chosen_when_the_bundle_is_opened(nano_int4: Path, workspace: Path) -> None:
    answer = "--temperature 0 --expect 'Reversed: house river stone' 'Reverse: stone river house'"
    result = run(f"g3n-run {nano_int4} --runtime litert --context 300 {answer}", workspace)
    assert result.returncode == 0, result.stderr
    long = " ".join(["dog"] * 600)
    result = run(f"g3n-run {nano_int4} --runtime litert --context 300 '{long}'", workspace)
    assert result.returncode == ContextFull.exit_code and "context of 512" in result.stderr
    result = run(f"g3n-run {nano_int4} --runtime litert --context 5000 Hi", workspace)
    assert result.returncode == EngineError.exit_code and "was compiled for 4096" in result.stderr
    result = run(f"g3n-run {nano_int4} --runtime executorch --context 300 Hi", workspace)
    assert result.returncode == EngineError.exit_code and "leave the context out" in result.stderr


def test_sampling_that_an_engine_cannot_do_is_refused(nano_int4: Path, workspace: Path) -> None:
    result = run("g3n-run exported/nano-host-int4 --runtime executorch --top-k 5 --seed 1 hello", workspace)
    assert result.returncode == EngineError.exit_code and "seed, top_k" in result.stderr


def test_manifest_of_the_demo(nano_int4: Path) -> None:
    manifest = open_bundle(nano_int4).manifest
    assert manifest["parity"]["passed"] and manifest["context"] == 4096
    assert {s["runtime"] for s in manifest["subgraphs"]} == set(BACKENDS)
    core = [s for s in manifest["subgraphs"] if s["name"] == "core"]
    assert all(s["delegation"]["flop_share"] > 0.95 for s in core), [s["delegation"] for s in core]
    assert {c["runtime"] for c in manifest["parity"]["checks"]} >= {"eager", "onnxruntime", *BACKENDS}
