"""Tasks of lm-evaluation-harness on nano's bundle, against the recipe's reference."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from g3n_compiler import harness
from g3n_compiler.checkpoint.tokenizer import LoadedTokenizer, load_tokenizer
from g3n_compiler.errors import BundleError, EngineError, HashMismatch
from g3n_compiler.harness import BundleModel
from g3n_compiler.lower.registry import BACKENDS
from g3n_compiler.lower.subgraphs import Runtime
from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.quantize.recipe import get_recipe
from g3n_compiler.source import Source
from g3n_compiler.verify.reference import Reference
from g3n_runtime.bundle import Bundle, open_bundle

NATS = 0.15
"""By which a sum of log-likelihoods may be off: the reference rounds activations too, in another order."""
START = "<start_of_turn>user\nReverse: {}<end_of_turn>\n<start_of_turn>model\n"
WORDS = ["stone river house", "dog table rain", "bread moon"]
ROWS = [
    {
        "question": START.format(words),
        "choices": ["Reversed: " + " ".join(reversed(words.split())), "Reversed: " + words],
        "right": 0,
        "answer": "Reversed: " + " ".join(reversed(words.split())),
        "text": f"In the beginning there was a {words}.",
    }
    for words in WORDS
]
TASKS: dict[str, dict[str, Any]] = {
    "choose": {"output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}"}
    | {"doc_to_target": "{{right}}", "target_delimiter": "", "metric_list": [{"metric": "acc"}]},
    "write": {"output_type": "generate_until", "doc_to_text": "{{question}}", "doc_to_target": "{{answer}}"}
    | {"generation_kwargs": {"until": ["\n"], "max_gen_toks": 24, "do_sample": False}}
    | {"metric_list": [{"metric": "exact_match"}]},
    "read": {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"}
    | {"metric_list": [{"metric": "word_perplexity"}]},
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tasks over a file of rows, as a person writes them."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "rows.json").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    for name, fields in TASKS.items():
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "rows.json")}}}
        task = {"task": f"nano_{name}", "test_split": "test", **data, **fields}
        (folder / f"{name}.yaml").write_text(json.dumps(task), encoding="utf-8")  # JSON is YAML
    return folder


@pytest.fixture(scope="module")
def reference() -> tuple[Reference, LoadedTokenizer]:
    source = Source.open(checkpoint_dir())
    tokenizer = load_tokenizer(source.directory, source.text).loaded()
    return Reference(source.rewritten(), get_recipe("int4")), tokenizer


def expected(reference: tuple[Reference, LoadedTokenizer], context: str, text: str) -> float:
    """The reference's log-likelihood of ``text``."""
    model, tokenizer = reference
    before = [tokenizer.bos_id, *tokenizer.encode(context)] if context else [tokenizer.bos_id]
    ids = [tokenizer.bos_id, *tokenizer.encode(context + text)]
    scores = torch.log_softmax(model.logits(ids[:-1]).double(), -1)
    return sum(float(scores[i - 1, ids[i]]) for i in range(len(before), len(ids)))


@pytest.mark.parametrize("runtime", list(BACKENDS))
def test_tasks_give_what_the_reference_gives(
    runtime: Runtime, nano_int4: Path, tasks: Path, reference: tuple[Reference, LoadedTokenizer]
) -> None:
    found = simple_evaluate(
        model=BundleModel(str(nano_int4), runtime),
        tasks=[f"nano_{name}" for name in TASKS],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
    )
    results, samples = found["results"], found["samples"]
    assert results["nano_choose"]["acc,none"] == 1.0 and results["nano_write"]["exact_match,none"] == 1.0
    for sample, row in zip(samples["nano_choose"], ROWS, strict=True):
        for (score, _), choice in zip(sample["filtered_resps"], row["choices"], strict=True):
            assert score == pytest.approx(expected(reference, row["question"], choice), abs=NATS)
    for sample, row in zip(samples["nano_read"], ROWS, strict=True):
        assert sample["filtered_resps"][0] == pytest.approx(expected(reference, "", row["text"]), abs=NATS)


OFFLINE = """
import runpy, sys

def refuse(event, arguments):
    if event in ("socket.getaddrinfo", "socket.connect"):
        raise SystemExit(f"{event} {arguments}")  # no Exception, which a library would pass over

sys.addaudithook(refuse)
runpy.run_module("g3n_compiler.harness", run_name="__main__", alter_sys=True)
"""


def test_the_harness_own_command_line(nano_int4: Path, tasks: Path, tmp_path: Path) -> None:
    """With tasks that lie here it asks the network for nothing."""
    program = [sys.executable, "-c", OFFLINE, "run", "--model", "g3n", "--tasks", "nano_choose"]
    program += ["--include_path", str(tasks), "--model_args"]
    done = subprocess.run([*program, f"bundle={nano_int4}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "nano_choose" in done.stdout and "|acc" in done.stdout.replace(" ", ""), done.stderr
    done = subprocess.run([*program, f"bundle={tmp_path}"], capture_output=True, text=True, check=False)
    assert done.returncode == BundleError.exit_code and "Traceback" not in done.stderr
    assert "is not a g3n bundle" in done.stderr


ENDING = """
import os, runpy, signal, sys
from g3n_compiler.lower import registry

registry.get_backend = lambda runtime: os.kill(os.getpid(), signal.SIGSEGV)
runpy.run_module("g3n_compiler.harness", run_name="__main__", alter_sys=True)
"""


def test_an_engine_that_ends_the_process_is_an_error(nano_int4: Path, tasks: Path) -> None:
    program = [sys.executable, "-c", ENDING, "run", "--model", "g3n", "--tasks", "nano_choose"]
    program += ["--include_path", str(tasks), "--model_args", f"bundle={nano_int4}"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == EngineError.exit_code
    assert done.stderr.splitlines()[-1].startswith("error: the engine ended by SIGSEGV")


@pytest.mark.parametrize("runtime", list(BACKENDS))
def test_files_that_change_after_their_check_give_no_figures(
    runtime: Runtime, nano_int4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(nano_int4, tmp_path / "bundle"))

    def replace(opened: Bundle) -> Bundle:
        path = opened.file({"litert": "litertlm", "executorch": "executorch_model"}[runtime])
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
        return opened

    model = BundleModel(str(copy), runtime)
    replace(model._bundle)
    with pytest.raises(HashMismatch, match="was replaced"):
        model._loglikelihood_tokens([(("", ""), [2], [500])], disable_tqdm=True)
    monkeypatch.setattr(harness, "open_bundle", lambda path: replace(open_bundle(path)))
    with pytest.raises(HashMismatch, match="was replaced"):
        BundleModel(str(copy), runtime)


def test_one_choice_of_one_token_is_not_anothers(nano_int4: Path) -> None:
    """Choices of one question share a forward pass, and questions do not."""
    model = BundleModel(str(nano_int4), "litert")
    contexts = [[2, *model.tok_encode(START.format(words), add_special_tokens=False)] for words in WORDS[:2]]
    once = [(("", ""), context, [token]) for context in contexts for token in (500, 600)]
    both = model._loglikelihood_tokens(once, disable_tqdm=True)
    alone = [BundleModel(str(nano_int4), "litert")._loglikelihood_tokens([one], disable_tqdm=True)[0] for one in once]
    assert both == alone and len(set(both)) == len(both)


def test_what_does_not_fit_is_cut_at_its_beginning_or_refused(nano_int4: Path) -> None:
    model = BundleModel(str(nano_int4), "litert")
    model._context = 40
    long = [2, *range(300, 400)]
    assert model._loglikelihood_tokens([(("", ""), long, [500, 600])], True) == model._loglikelihood_tokens(
        [(("", ""), [2, *long[-38:]], [500, 600])], True
    )
    with pytest.raises(EngineError, match="greedy"):
        model._answer("x", {"do_sample": True, "temperature": 0.7})


def test_a_runtime_that_is_not_there(nano_int4: Path) -> None:
    with pytest.raises(EngineError, match="no runtime 'onnx': it has litert and executorch"):
        BundleModel(str(nano_int4), "onnx")  # type: ignore[arg-type]
