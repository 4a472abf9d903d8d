"""The stock ``TextLLMRunner`` over a lowered program."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_runtime.chat import GREEDY, Sampler
from g3n_runtime.conversation import Ended
from g3n_runtime.errors import ContextFull, EngineError
from g3n_runtime.executorch.chat import ExecuTorchChat
from g3n_runtime.executorch.engine import ExecuTorchEngine
from g3n_runtime.executorch.model import ExecuTorchModel, ExecuTorchParts
from g3n_runtime.executorch.tokenizer import PieceDecoder, Vocabulary
from tests.conftest import TINY
from tests.executorch.conftest import CHUNK, CONTEXT, Lower
from tests.prompts import nano_template, one_turn
from tests.runtime.full import check_full_conversation


def test_it_says_the_greedy_tokens(lowered: Lower) -> None:
    one = lowered("fp32")
    tokenizer = load_tokenizer(one.source.directory, one.config)
    prompt = tokenizer.chat("What is a river?")
    assert len(prompt) > CHUNK
    tokens = ExecuTorchModel(one.parts).greedy(prompt, 20, one.config.eos_ids)
    assert min(tokens) < TINY["vocab_size"] <= max(tokens), "the tokenizer should have a name for some only"
    names, decoder = Tokenizer.from_file(str(one.parts.tokenizer)), PieceDecoder()
    expected = "".join(decoder.feed(names.id_to_token(token).replace("▁", " ")) for token in tokens) + decoder.end()
    assert expected
    assert "".join(ExecuTorchChat(one.parts, nano_template()).send("What is a river?", GREEDY, 20)) == expected


def test_a_conversation_goes_on_and_starts_again(lowered: Lower) -> None:
    one = lowered("fp32")
    assert one.parts.tokenizer is not None
    words, model, decoder = Vocabulary(one.parts.tokenizer), ExecuTorchModel(one.parts), PieceDecoder()
    chat = ExecuTorchChat(one.parts, nano_template())
    first, second = "".join(chat.send("one", GREEDY, 5)), "".join(chat.send("two", GREEDY, 1))
    text = f"{one_turn('one')}{first.strip()}<end_of_turn>\n{one_turn('two')}"
    (token,) = model.greedy([one.config.bos_id, *words.encode(text)], 1)
    assert second == decoder.feed(words.name(token)) + decoder.end()
    chat.reset()
    assert "".join(chat.send("one", GREEDY, 5)) == first


def test_the_files_may_have_any_names(lowered: Lower, tmp_path: Path) -> None:
    """A program finds its tables by a tag inside both, whatever the files are called."""
    parts = lowered("fp32").parts
    renamed = ExecuTorchParts(tmp_path / "nano-fp32.pte", tmp_path / "other.ptd", parts.tokenizer)
    shutil.copyfile(parts.model, renamed.model)
    shutil.copyfile(parts.tables, renamed.tables)
    said = ["".join(ExecuTorchChat(p, nano_template()).send("one", GREEDY, 5)) for p in (parts, renamed)]
    assert said[0] and said[0] == said[1]


def test_leaving_early_stops_the_runner(lowered: Lower) -> None:
    chat = ExecuTorchChat(lowered("fp32").parts, nano_template())
    whole = "".join(chat.send("one", GREEDY, 60))
    chat.reset()
    stream = chat.send("one", GREEDY, 60)
    said = next(stream)
    stream.close()
    (turn,) = chat.conversation.turns
    assert stream.ended is turn.ended is Ended.CANCELLED and turn.answer == said and len(said) < len(whole)
    chat.reset()
    assert "".join(chat.send("one", GREEDY, 60)) == whole


def test_what_does_not_fit_is_refused_before_it_runs(lowered: Lower) -> None:
    chat = ExecuTorchChat(lowered("fp32").parts, nano_template())
    with pytest.raises(ContextFull, match=f"context of {CONTEXT}"):
        chat.send("river " * CONTEXT, GREEDY, 5)
    with pytest.raises(EngineError, match="temperature"):
        chat.send("river", Sampler(temperature=3.0), 5)
    assert not chat.conversation.turns


def test_a_full_conversation_is_kept_and_goes_on_without_its_oldest_turns(lowered: Lower) -> None:
    check_full_conversation(ExecuTorchChat(lowered("fp32").parts, nano_template()), CONTEXT)


def test_an_answer_that_begins_with_a_stop_token_is_empty(lowered: Lower, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner looks for stop tokens from the second on."""

    class Babbling:
        stopped = False

        def generate(self, prompt: str, config: Any, on_piece: Callable[[str], None], on_stats: None) -> None:
            for piece in ["<end_of_turn>", *["more"] * 50]:
                on_piece(piece)
                if self.stopped:
                    return

        def stop(self) -> None:
            self.stopped = True

        def reset(self) -> None:
            pass

    engine = ExecuTorchEngine(lowered("fp32").parts)
    monkeypatch.setattr(engine, "_runner", Babbling())
    answer = engine.generate("one", 0, 51, room=60)
    assert list(answer) == [] and answer.ended is Ended.END_OF_TURN


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["a", "<0xE2>", "<0x82>", "<0xAC>", " b"], "a€ b"),
        (["<0xE2>", "<0x82>", "x"], "\ufffdx"),
        (["<0xF0>", "<0x9F>"], "\ufffd"),
        (["<0x41>", "<0x"], "A<0x"),
    ],
)
def test_byte_pieces_join_into_characters(pieces: list[str], text: str) -> None:
    decoder = PieceDecoder()
    assert "".join(decoder.feed(p) for p in pieces) + decoder.end() == text
