"""The conversation by itself, with engines that are a few lines."""

from __future__ import annotations

import pickle
from collections.abc import Generator, Sequence

import pytest

from g3n_runtime.conversation import Answer, Conversation, Ended, Prompt, Turn, limit_of
from g3n_runtime.errors import ContextFull, EngineError
from tests.prompts import nano_template

TEMPLATE = nano_template()
CONTEXT = 40


def count(turns: Sequence[Turn[str]], prompt: Prompt[str]) -> int:
    """A character is a token."""
    return sum(len(t.prompt.text + t.answer) for t in turns) + len(prompt.text)


def answer(*pieces: str, ended: Ended = Ended.END_OF_TURN) -> Answer:
    def stream() -> Generator[str, None, Ended]:
        yield from pieces
        return ended

    return Answer(stream())


def filled(*turns: tuple[str, str]) -> Conversation[str]:
    conversation: Conversation[str] = Conversation()
    for asked, said in turns:
        assert "".join(conversation.answered(Prompt(asked), answer(said))) == said
    return conversation


@pytest.mark.parametrize("ended", list(Ended))
def test_an_answer_tells_why_it_ended_and_is_kept(ended: Ended) -> None:
    conversation: Conversation[str] = Conversation()
    said = conversation.answered(Prompt("a"), answer("b", "c", ended=ended))
    assert said.ended is None and not conversation.turns
    assert list(said) == ["b", "c"] and said.ended is ended
    assert next(said, None) is None and said.ended is ended
    assert conversation.turns == (Turn(Prompt("a"), "bc", ended),)
    assert ended.is_cut == (ended is not Ended.END_OF_TURN)


def test_an_answer_that_is_left_early_is_kept_as_far_as_it_was_said() -> None:
    conversation, closed = filled(("a", "b")), []

    def stream() -> Generator[str, None, Ended]:
        try:
            yield "one"
            yield "two"
        finally:
            closed.append(True)
        return Ended.END_OF_TURN

    said = conversation.answered(Prompt("c"), Answer(stream()))
    assert next(said) == "one"
    said.close()
    assert closed and said.ended is Ended.CANCELLED
    assert conversation.turns[1:] == (Turn(Prompt("c"), "one", Ended.CANCELLED),)


@pytest.mark.parametrize("error", [KeyboardInterrupt, EngineError])
@pytest.mark.parametrize("pieces", [(), ("one",)])
def test_an_interrupted_answer_is_kept_and_a_failed_one_is_not(
    error: type[BaseException], pieces: tuple[str, ...]
) -> None:
    conversation = filled(("a", "b"))

    def stream() -> Generator[str, None, Ended]:
        yield from pieces
        raise error

    with pytest.raises(error):
        list(conversation.answered(Prompt("c"), Answer(stream())))
    kept = pieces and error is KeyboardInterrupt
    assert len(conversation.turns) == (2 if kept else 1)


def test_a_conversation_that_was_reset_takes_no_late_answer() -> None:
    conversation = filled(("a", "b"))
    said = conversation.answered(Prompt("c"), answer("one", "two"))
    next(said)
    conversation.reset()
    list(said)
    assert conversation.turns == ()


def test_no_text_has_a_nul() -> None:
    """LiteRT-LM would take what stands before it for the whole prompt."""
    conversation = filled(("a", "b\0c"))
    assert conversation.turns[0].answer == "b\ufffdc"
    with pytest.raises(EngineError, match="NUL"):
        Prompt("a\0b")
    for system in ("\0", "a\0b"):
        with pytest.raises(EngineError, match="NUL"):
            conversation.system = system
        with pytest.raises(EngineError, match="NUL"):
            Conversation[str](system)


def test_drop_takes_the_oldest() -> None:
    conversation = filled(("a", "1"), ("b", "2"), ("c", "3"))
    assert conversation.drop(0) == conversation.drop(-1) == 0
    assert conversation.drop() == 1 and [t.prompt.text for t in conversation.turns] == ["b", "c"]
    assert conversation.drop(5) == 2 and conversation.drop() == 0


def test_what_fits_leaves_room_for_a_token() -> None:
    conversation = filled(("a" * 10, "b" * 9))
    assert conversation.require_room(Prompt("c" * 20), CONTEXT, count) == 1
    with pytest.raises(ContextFull, match="40 tokens with this prompt, at most 39 fit"):
        conversation.require_room(Prompt("c" * 21), CONTEXT, count)
    assert len(conversation.turns) == 1


@pytest.mark.parametrize(
    ("prompt", "to_drop"),
    [
        (11, 1),  # 41 of 40; 31 after a turn is dropped
        (25, 2),  # 35 after two are dropped, which leaves the 5 that are an eighth
        (26, 3),  # dropping two leaves 36, which fits, but room for 4
        (39, 3),  # no room for an eighth, however many are dropped
        (40, None),
    ],
)
def test_the_turns_to_drop_are_counted(prompt: int, to_drop: int | None) -> None:
    conversation = filled(*[("a" * 5, "b" * 5)] * 3)
    with pytest.raises(ContextFull) as error:
        conversation.require_room(Prompt("c" * prompt), CONTEXT, count)
    assert (error.value.tokens, error.value.context, error.value.to_drop) == (30 + prompt, CONTEXT, to_drop)
    assert len(conversation.turns) == 3
    if to_drop is not None:
        conversation.drop(to_drop)
        room = conversation.require_room(Prompt("c" * prompt), CONTEXT, count)
        assert room >= min(CONTEXT // 8, CONTEXT - prompt)
    again = pickle.loads(pickle.dumps(error.value))
    assert (str(again), again.to_drop) == (str(error.value), to_drop)


def test_a_prompt_alone_that_does_not_fit_has_no_turns_to_drop() -> None:
    with pytest.raises(ContextFull, match="the prompt has 40 tokens, at most 39 fit") as error:
        Conversation[str]().require_room(Prompt("c" * 40), CONTEXT, count)
    assert error.value.to_drop is None


def test_limits() -> None:
    assert limit_of(3, 5) == (3, Ended.TOKEN_LIMIT) and limit_of(5, 5) == (5, Ended.TOKEN_LIMIT)
    assert limit_of(6, 5) == limit_of(None, 5) == (5, Ended.CONTEXT_FULL)


def test_the_system_opens_the_first_turn_that_is_left() -> None:
    conversation = filled(("a", " x "), ("b ", "y"))
    start, model = "<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n"

    def text() -> str:
        return "".join(TEMPLATE.prompt("Be brief.", conversation.turns, Prompt("c")))

    rest = f"b{model}y<end_of_turn>\n{start}c{model}"
    assert text() == f"{start}Be brief.\n\na{model}x<end_of_turn>\n{start}{rest}"
    conversation.drop()
    assert text() == f"{start}Be brief.\n\n{rest}"
    conversation.reset()
    assert text() == f"{start}Be brief.\n\nc{model}"


def test_media_come_before_the_text() -> None:
    parts = TEMPLATE.prompt(
        None, (), Prompt("what?", ("PICTURE", "SOUND")), {"PICTURE": "image", "SOUND": "audio"}.__getitem__
    )
    start, end = "<start_of_turn>user\n\n\n", "\n\nwhat?<end_of_turn>\n<start_of_turn>model\n"
    assert parts == [start, "PICTURE", "\n\n\n\n", "SOUND", end]
