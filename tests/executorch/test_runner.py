"""The stock ``TextLLMRunner`` over a lowered program."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_runtime.engine import GREEDY
from g3n_runtime.errors import EngineError
from g3n_runtime.executorch import ExecuTorchChat, ExecuTorchModel, PieceDecoder
from tests.executorch.conftest import CONTEXT, Lowered

PROMPT = "the river of the north, and some more text than fits a chunk"


def test_its_greedy_text_is_that_of_the_greedy_logits(int4: Lowered) -> None:
    tokenizer = load_tokenizer(int4.checkpoint.directory, int4.config)
    prompt = [tokenizer.bos_id, *tokenizer.encode(PROMPT)]
    expected = ExecuTorchModel(int4.parts, "forward").greedy(prompt, 12, int4.config.eos_ids)
    chat = ExecuTorchChat(int4.parts)
    text = "".join(chat.send(PROMPT, GREEDY, 12))
    assert len(prompt) > int4.made.chunk
    names = Tokenizer.from_file(str(tokenizer.json_path))
    decoder = PieceDecoder()
    pieces = [decoder.feed(names.id_to_token(token).replace("▁", " ")) for token in expected]
    assert text == "".join(pieces) + decoder.end()


def test_a_conversation_goes_on_and_starts_again(int4: Lowered) -> None:
    chat = ExecuTorchChat(int4.parts)
    first = list(chat.send("one", GREEDY, 5))
    second = list(chat.send("two", GREEDY, 5))
    chat.reset()
    assert list(chat.send("one", GREEDY, 5)) == first
    assert list(chat.send("two", GREEDY, 5)) == second


def test_leaving_early_stops_the_runner(int4: Lowered) -> None:
    chat = ExecuTorchChat(int4.parts)
    stream = chat.send("one", GREEDY, 40)
    next(stream)
    stream.close()
    assert chat.used < 30
    chat.reset()
    assert len(list(chat.send("one", GREEDY, 3))) <= 3


def test_what_does_not_fit_is_refused_before_it_runs(int4: Lowered) -> None:
    chat = ExecuTorchChat(int4.parts)
    with pytest.raises(EngineError, match=f"context of {CONTEXT}"):
        chat.send("word " * CONTEXT, GREEDY, 5)
    assert list(chat.send("one", GREEDY, 2))


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
