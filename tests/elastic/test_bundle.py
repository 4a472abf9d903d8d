"""An elastic bundle as users meet it: what the compile proves and records, and running it at one size and another."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.cli import compile as compile_verb
from g3n_compiler.cli import inspect, run, verify
from g3n_compiler.errors import EngineError, SliceError, TargetError
from g3n_compiler.lower.litert.container import entry_points
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.report.loss import part_sentences
from g3n_compiler.verify.held import own_held_texts
from g3n_compiler.verify.reference import Reference
from g3n_runtime.bundle import open_bundle
from g3n_runtime.chat import GREEDY
from g3n_runtime.engines import open_engine
from g3n_runtime.errors import ContextFull
from g3n_runtime.litert import vulkan
from g3n_runtime.litert.elastic import ElasticText
from g3n_runtime.litert.elastic_chat import AUTO, ElasticChat
from tests.documented import examples
from tests.elastic.conftest import CONTEXT, FULL, PREFILL, SMALL, Nested
from tests.runtime.full import check_full_conversation

VERBS = {"g3n-run": run.main, "g3n-inspect": inspect.main, "g3n-verify": verify.main, "g3n-compile": compile_verb.main}
OF_NANO, ITS_SMALL = "exported/nano-elastic-host-int4", "half-5-6"
COMMANDS = [e.command for e in examples("docs/elastic.md") if OF_NANO in e.command]
QUESTION = "What is a river?"


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> dict[str, Any]:
    return open_bundle(bundle).manifest


@pytest.fixture
def chat(bundle: Path) -> Iterator[ElasticChat]:
    chat = ElasticChat(open_bundle(bundle), FULL, 1)
    yield chat
    chat.close()


def do(command: str, stdin: str = "") -> Result:
    verb, *words = shlex.split(command)
    return CliRunner().invoke(VERBS[verb], words, input=stdin)


def test_every_size_was_compared_with_its_own_slice(manifest: dict[str, Any]) -> None:
    compared = {(c["subgraph"], c["reference"]) for c in manifest["parity"]["checks"] if c["passed"]}
    for core in ("core", f"core of {SMALL}"):
        assert {(core, "transformers fp32"), (core, "fake-quant int4"), (core, "its own layers")} <= compared
    assert ("core", "its own decode") in compared
    assert [t["runtime"] for t in manifest["parity"]["texts"]] == ["litert"] * 2


def test_what_each_size_loses_is_told(nested: Nested, manifest: dict[str, Any]) -> None:
    """Perplexity of the size's own slice, in float32 and rounded, over the same texts."""
    (size,), source = nested.sizes[1:], nested.source
    tokenizer = load_tokenizer(source.directory, gemma3n_config(source.text), source.modalities)
    held, told = own_held_texts(source, tokenizer), manifest["loss"]
    assert list(told["sizes"]) == [size.name] and told["tokens"] == held.predicted
    for field, own, recipe in (
        ("exact_perplexity", source, None),
        ("perplexity", source.rewritten(), RECIPES["int4"]),
    ):
        reference = Reference(own.sliced(size.plan, size.config), recipe)
        nats = [
            -torch.log_softmax(reference.logits(ids[:-1]), -1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
            for ids in held.ids
        ]
        assert told["sizes"][size.name][field] == pytest.approx(float(torch.cat(nats).mean().exp()), rel=2e-3)
    (sentence,) = part_sentences(manifest)
    assert sentence.startswith(f"size {size.name}: perplexity")


def test_the_manifest_lists_the_sizes(bundle: Path, manifest: dict[str, Any]) -> None:
    full, small = manifest["sizes"]
    assert (full["name"], small["name"]) == (FULL, SMALL)
    assert full["layers"] == [0, 1, 2, 3] and small["layers"] == [0, 1, 3]
    assert full["ffn_dims"] == [128] * 4 and small["ffn_dims"] == [64] * 3
    assert small["core_bytes"] < full["core_bytes"] and small["delegation"]["flop_share"] > 0.95
    assert small["signatures"] == [f"{SMALL}:{name}" for name in full["signatures"]]
    assert manifest["elastic"] == entry_points(open_bundle(bundle).file("litertlm"))


def test_the_largest_says_what_the_stock_engine_says(bundle: Path, chat: ElasticChat) -> None:
    stock = open_engine(open_bundle(bundle))
    for turn in (QUESTION, "And a lake?"):
        assert "".join(chat.send(turn, GREEDY, 10)).strip() == "".join(stock.send(turn, GREEDY, 10)).strip()
    stock.close()


def test_the_stock_engine_shortens_the_context_of_the_largest(bundle: Path, chat: ElasticChat) -> None:
    stock = open_engine(open_bundle(bundle), context=2 * PREFILL)
    said = "".join(stock.send(QUESTION, GREEDY, 10)).strip()
    assert said == "".join(chat.send(QUESTION, GREEDY, 10)).strip()
    with pytest.raises(ContextFull, match="context of 48"):
        stock.send("dog " * 2 * PREFILL, GREEDY, 10)
    stock.close()


def test_a_size_changes_in_the_middle_of_an_answer(nested: Nested, chat: ElasticChat) -> None:
    """The answer is that of the text taken token by token through the sizes that were in use."""
    tokenizer = load_tokenizer(nested.source.directory, nested.source.text)
    prompt, sizes = tokenizer.chat(QUESTION), []
    decode = chat._text.decode
    chat._text.decode = lambda token, size: (sizes.append(size), decode(token, size))[1]  # type: ignore[method-assign]
    for count, _ in enumerate(chat.send(QUESTION, GREEDY, 12)):
        chat.use(SMALL if count % 3 else FULL)
    said = chat._text.ids[len(prompt) :]
    assert set(sizes) == {FULL, SMALL} and len(sizes) == 12
    assert chat._text.ids[: len(prompt)] == prompt and len(said) == 11
    text = ElasticText(chat.model)
    text.prefill(prompt[:-1], FULL)
    token, want = prompt[-1], []
    for size in sizes[:-1]:
        token = int(text.decode(token, size).argmax())
        want.append(token)
    assert said == want


def test_later_turns_read_only_what_is_new(chat: ElasticChat) -> None:
    answer = "".join(chat.send(QUESTION, GREEDY, 6))
    before = list(chat._text.ids)
    text = chat._text
    "".join(chat.send("And a lake?", GREEDY, 6))
    kept = chat._text is text
    chat.reset()
    assert answer == "".join(chat.send(QUESTION, GREEDY, 6))
    # An answer may be cut into other tokens than it was made of; then all is read anew.
    assert not kept or text.ids[: len(before)] == before


def test_a_full_conversation_is_kept_and_goes_on_without_its_oldest_turns(bundle: Path) -> None:
    check_full_conversation(ElasticChat(open_bundle(bundle), FULL, 1, draft=SMALL), CONTEXT)


def test_drafts_do_not_change_what_is_said(bundle: Path, chat: ElasticChat) -> None:
    drafting = ElasticChat(open_bundle(bundle), FULL, 1, draft=SMALL)
    assert "".join(drafting.send(QUESTION, GREEDY, 20)) == "".join(chat.send(QUESTION, GREEDY, 20))
    drafting.close()


def test_policy_and_measure(bundle: Path, chat: ElasticChat) -> None:
    speed = chat.measure(20, 8)
    assert (speed.prompt_tokens, speed.decode_tokens) == (20, 8) and speed.decode_per_second > 0
    fast = ElasticChat(open_bundle(bundle), AUTO, 1, target_speed=1e9)
    assert fast.size == FULL
    "".join(fast.send(QUESTION, GREEDY, 3))
    "".join(fast.send(QUESTION, GREEDY, 3))
    assert fast.size == SMALL
    fast.close()


def test_commands_of_the_page(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run on this bundle, which stands for nano's: that one takes minutes to compile."""
    monkeypatch.chdir(bundle.parents[1])
    assert len(COMMANDS) >= 3
    for command in COMMANDS:
        done = do(command.replace(OF_NANO, f"exported/{bundle.name}").replace(ITS_SMALL, SMALL))
        assert done.exit_code == 0, f"{command}: {done.output}"
        assert done.stdout.strip()


@pytest.mark.parametrize("option", ["--size", "--draft"])
def test_a_size_goes_to_the_backend_that_was_asked_for(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """What it computes on the GPU is compared in ``tests/gpu``."""
    monkeypatch.setattr(vulkan, "find_driver", lambda: None)
    words = [str(bundle), option, SMALL, "--backend", "gpu", "--temperature", "0", QUESTION]
    result = CliRunner().invoke(run.main, words)
    assert result.exit_code == EngineError.exit_code and "no Vulkan driver" in result.output


def test_the_size_of_a_chat(bundle: Path) -> None:
    lines = f"Hi\n/size {SMALL}\nHi\n/size large\n/exit\n"
    done = do(f"g3n-run {bundle} --size {FULL} --temperature 0 --max-tokens 4", lines)
    assert done.exit_code == 0 and "it has full, half-2" in done.stderr, done.output


def test_verify_knows_the_sizes(bundle: Path, nested: Nested) -> None:
    done = do(f"g3n-verify {bundle} --checkpoint {nested.source.directory} --format json")
    assert done.exit_code == 0, done.output
    found = {c["subgraph"] for c in json.loads(done.stdout.strip().splitlines()[-1])["checks"]}
    assert f"core of {SMALL}" in found


@pytest.mark.parametrize(
    ("command", "error", "message"),
    [
        ("g3n-compile --elastic full,half", TargetError, "pass --runtime litert"),
        ("g3n-compile --elastic full,half --runtime executorch", TargetError, "hold one size"),
        ("g3n-compile --elastic full,half --runtime litert --skip-layers 5", SliceError, "name all sizes"),
        ("g3n-compile --elastic full,e2b --runtime litert", SliceError, "slice of E4B"),
        ("g3n-run BUNDLE --size tiny Hi", EngineError, "it has full, half-2"),
        ("g3n-run BUNDLE --size half-2 --runtime executorch Hi", EngineError, "--size needs --runtime litert"),
        ("g3n-run BUNDLE --draft full --temperature 0 Hi", EngineError, "expected a smaller size"),
    ],
)
def test_refused(bundle: Path, command: str, error: type[Exception], message: str) -> None:
    done = do(command.replace("BUNDLE", str(bundle)))
    assert done.exit_code == error.exit_code, done.output  # type: ignore[attr-defined]
    assert message in " ".join(done.stderr.split())


def test_a_copy_that_is_not_the_bundles_is_replaced(bundle: Path, chat: ElasticChat, own_cache_folder: Path) -> None:
    opened = open_bundle(bundle)
    folder = own_cache_folder.glob(f"engines/ai-edge-litert-*/{opened.open_file('litertlm').verified}")
    kept = {path: path.read_bytes() for path in next(folder).glob("*.bin")}
    assert len(kept) == 4, "three models and the weights that XNNPACK packed"
    for path, right in kept.items():
        path.unlink()  # not overwritten, since the open chat maps it
        path.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    said = "".join(chat.send(QUESTION, GREEDY, 8))
    again = ElasticChat(opened, FULL, 1)
    assert "".join(again.send(QUESTION, GREEDY, 8)) == said
    again.close()
    assert {path: path.read_bytes() for path in kept} == kept
    assert not (bundle / ".cache").exists()


def test_one_size_is_no_elastic_bundle(manifest: dict[str, Any], bundle: Path, tmp_path: Path) -> None:
    for path in bundle.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    plain = {key: value for key, value in manifest.items() if key not in ("sizes", "elastic")}
    (tmp_path / "manifest.json").write_text(json.dumps(plain), encoding="utf-8")
    done = do(f"g3n-run {tmp_path} --size full Hi")
    assert done.exit_code == EngineError.exit_code and "--elastic" in done.stderr
