"""The stock LiteRT-LM engine over a packed bundle, held against the bundle's own signatures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import litert_lm
import pytest
from transformers import AutoTokenizer

from g3n_compiler.checkpoint.chat_template import GEMMA
from g3n_compiler.lower.litert.metadata import llm_metadata
from g3n_runtime.chat import GREEDY, Sampler
from g3n_runtime.conversation import Ended
from g3n_runtime.errors import ContextFull, EngineError
from g3n_runtime.litert.chat import LiteRtChat
from g3n_runtime.litert.engine import LiteRtEngine
from g3n_runtime.litert.model import LiteRtModel
from tests.litert import conftest as litert_conftest
from tests.litert.conftest import CACHE, CONTEXT, PREFILL, Converted
from tests.runtime.full import check_full_conversation

STOP = (1, 106)


@pytest.fixture(scope="module")
def path(converted: Converted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted.pack("fp32", tmp_path_factory.mktemp("bundle") / "model.litertlm")


@pytest.fixture(scope="module")
def engine(path: Path) -> Iterator[LiteRtEngine]:
    with LiteRtEngine(path, threads=2) as engine:
        yield engine


@pytest.fixture(scope="module")
def model(converted: Converted) -> LiteRtModel:
    return converted.model("fp32")


@pytest.fixture(scope="module")
def tokenizer(converted: Converted) -> Any:
    return AutoTokenizer.from_pretrained(converted.source.directory)


def expected(model: LiteRtModel, tokenizer: Any, turns: list[dict[str, str]], count: int) -> str:
    """Greedy answer of the signatures to ``turns`` under the Hugging Face template."""
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
    return tokenizer.decode(model.greedy(ids, count, STOP))


@pytest.mark.parametrize(
    "prompt", ["Hi", "What is a river?", "  Name the sea, the land and all that moves between them, one by one.  "]
)
def test_greedy_text_equals_the_signatures(
    engine: LiteRtEngine, model: LiteRtModel, tokenizer: Any, prompt: str
) -> None:
    want = expected(model, tokenizer, [{"role": "user", "content": prompt}], 12)
    assert len(want) > 5
    assert "".join(engine.generate(prompt, GREEDY, 12)) == want


@pytest.mark.parametrize("shorter", [PREFILL, 2 * PREFILL, 3 * PREFILL])
def test_an_engine_with_a_shorter_context_says_the_same(
    path: Path, model: LiteRtModel, tokenizer: Any, shorter: int
) -> None:
    """Up to the last position of the shortened caches, which a padded chunk reaches."""
    text = " ".join(["dog", "river", "stone", "house"] * CONTEXT)
    with LiteRtEngine(path, max_tokens=shorter, threads=2) as engine:
        ids = engine.encode(text)[: shorter - 9]
        prompt = tokenizer.decode(ids)
        assert engine.encode(prompt) == ids and engine.max_tokens == shorter
        want = tokenizer.decode(model.greedy([2, *ids], 8, STOP))
        assert "".join(engine.complete(prompt, GREEDY, 8)) == want
        with pytest.raises(ContextFull):
            list(engine.complete(text, GREEDY, 8))


def test_the_engine_shortens_a_graph_whose_context_is_a_prime(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """That it is done at all, by the engine's own words; a graph that stays as long only costs more."""
    litert_lm.set_min_log_severity(litert_lm.LogSeverity.INFO)
    litert_lm.Engine(str(path), cache_dir=":nocache", max_num_tokens=2 * PREFILL).close()
    assert f"magic number  {CACHE} to target number {2 * PREFILL}" in capfd.readouterr().err


def test_raw_text_gets_bos_and_no_template(engine: LiteRtEngine, model: LiteRtModel, tokenizer: Any) -> None:
    text = "In the beginning God created the heaven and"
    want = tokenizer.decode(model.greedy(tokenizer(text).input_ids, 12, STOP))
    assert "".join(engine.complete(text, GREEDY, 12)) == want


def test_a_prompt_that_the_engine_would_cut_is_refused(engine: LiteRtEngine) -> None:
    user = [{"role": "user", "content": text} for text in ("a", "a\0b")]
    assert engine.count(user[1:]) < engine.count(user[:1]), "the engine no longer ends a prompt at a NUL"
    parts = [{"role": "user", "content": [{"type": "text", "text": "a\0b"}]}]
    for prompt in ("a\0b", user[1:], [user[1], {"role": "assistant", "content": "b"}, user[0]], parts):
        with pytest.raises(EngineError, match="NUL"):
            engine.generate(prompt)


def test_later_turns_see_the_earlier_ones_as_the_template_has_them(
    path: Path, model: LiteRtModel, tokenizer: Any
) -> None:
    chat = LiteRtChat(path, system="Be brief.")
    turns = [{"role": "system", "content": "Be brief."}]
    for question in ("What is a dog?", "And a cat?"):
        turns.append({"role": "user", "content": question})
        answer = "".join(chat.send(question, GREEDY, 8))
        assert answer == expected(model, tokenizer, turns, 8)
        turns.append({"role": "assistant", "content": answer})
    assert [(t.prompt.text, t.answer) for t in chat.conversation.turns] == [
        (asked["content"], said["content"]) for asked, said in zip(turns[1::2], turns[2::2], strict=True)
    ]
    chat.reset()
    assert "".join(chat.send("And a cat?", GREEDY, 8)) == expected(model, tokenizer, [turns[0], turns[3]], 8)
    chat.close()


def test_stopping_early_leaves_the_engine_usable(engine: LiteRtEngine) -> None:
    whole = "".join(engine.generate("What is a dog?", GREEDY, 12))
    stream = engine.generate("What is a dog?", GREEDY, 12)
    next(stream)
    stream.close()
    assert "".join(engine.generate("What is a dog?", GREEDY, 12)) == whole


def test_an_answer_tells_why_it_ended(engine: LiteRtEngine, converted: Converted, tmp_path: Path) -> None:
    """The random model ends no turn by itself: in another bundle the fifth token that it says does."""
    question = "What is a river?"
    limited, full = engine.generate(question, GREEDY, 5), engine.generate(question, GREEDY)
    said = "".join(limited)
    assert limited.ended is Ended.TOKEN_LIMIT
    assert "".join(full).startswith(said) and full.ended is Ended.CONTEXT_FULL
    stop, metadata = engine.encode(said)[-1], llm_metadata
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            litert_conftest,
            "llm_metadata",
            lambda context, own, *rest: metadata(context, replace(own, stop_ids=(*own.stop_ids, stop)), *rest),
        )
        path = converted.pack("fp32", tmp_path / "stops.litertlm")
    with LiteRtEngine(path, threads=2) as stopping:
        for most in (None, 6, 5):
            ended = stopping.generate(question, GREEDY, most)
            assert said.startswith("".join(ended)) and ended.ended is Ended.END_OF_TURN
        cut = stopping.generate(question, GREEDY, 4)
        assert list(cut) and cut.ended is Ended.TOKEN_LIMIT


def test_a_full_conversation_is_kept_and_goes_on_without_its_oldest_turns(path: Path) -> None:
    check_full_conversation(LiteRtChat(path), CONTEXT)


def test_a_seed_repeats_a_sample(engine: LiteRtEngine) -> None:
    first, again, other = ("".join(engine.generate("Hi", Sampler(seed=s), 12)) for s in (1, 1, 2))
    assert first == again != other


def test_more_tokens_than_compiled_for_are_refused(path: Path, engine: LiteRtEngine) -> None:
    assert engine.context == CONTEXT
    with pytest.raises(EngineError, match="compiled for 96"):
        LiteRtEngine(path, max_tokens=CONTEXT + 1)
    with pytest.raises(ContextFull, match="shorten"):
        engine.generate("dog " * CONTEXT, GREEDY)


def test_a_file_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="is missing"):
        LiteRtEngine(tmp_path / "missing.litertlm")
    (tmp_path / "bad.litertlm").write_bytes(b"nothing")
    with pytest.raises(EngineError, match=r"no \.litertlm"):
        LiteRtEngine(tmp_path / "bad.litertlm")


def test_measure_reports_what_it_ran(path: Path) -> None:
    speed = LiteRtChat(path).measure(40, 8)
    assert (speed.prompt_tokens, speed.decode_tokens) == (40, 8)
    assert speed.prefill_per_second > 0
    assert speed.decode_per_second > 0
    assert speed.load_seconds > 0


def test_a_measurement_that_does_not_fit_is_refused(path: Path) -> None:
    with pytest.raises(EngineError, match="90 and 20 tokens are more than the"):
        LiteRtChat(path).measure(90, 20)


def test_the_default_template_equals_the_checkpoints(converted: Converted, tokenizer: Any) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " What is a dog? "},
        {"role": "assistant", "content": "A dog."},
        {"role": "user", "content": "And a cat?"},
    ]
    for conversation in (turns, turns[1:], turns[1:2]):
        own, ours = (
            tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False, chat_template=t)
            for t in (None, GEMMA)
        )
        assert ours == own
