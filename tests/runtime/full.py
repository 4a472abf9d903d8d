"""What every engine's chat must do when its conversation is full."""

from __future__ import annotations

from collections.abc import Generator

from g3n_runtime.chat import GREEDY, NOTHING, Attachments, ChatEngine
from g3n_runtime.conversation import Answer, Ended
from g3n_runtime.errors import ContextFull


def check_full_conversation(chat: ChatEngine, context: int, attachments: Attachments = NOTHING) -> None:
    """Fill ``chat``'s conversation with turns that each have ``attachments``, drop what it asks for, and go on."""
    said = chat.conversation

    def send(text: str, most: int) -> tuple[str, Ended | None]:
        answer = chat.send(text, GREEDY, most, attachments)
        return "".join(answer), answer.ended

    chat.reset()
    refused = ""
    full: ContextFull | None = None
    for number in range(context):
        before, refused = said.turns, f"What is {number}?"
        try:
            _, ended = send(refused, 3)
        except ContextFull as error:
            full = error
            break
        assert ended in (Ended.TOKEN_LIMIT, Ended.CONTEXT_FULL), ended
        assert said.turns[:-1] == before and said.turns[-1].ended is ended
    assert full is not None and len(before) >= 2
    assert said.turns == before, "a prompt that is refused should not be kept"
    assert full.tokens >= full.context == context and full.to_drop is not None
    said.drop(full.to_drop)
    rest = before[full.to_drop :]
    assert rest and said.turns == rest
    answer, ended = send(refused, context)
    assert ended is Ended.CONTEXT_FULL and len(answer) > 0
    assert said.turns[:-1] == rest and said.turns[-1].answer == answer

    chat.reset()
    for turn in rest:

        def repeated(text: str = turn.answer, ended: Ended = turn.ended) -> Generator[str, None, Ended]:
            yield text
            return ended

        list(said.answered(turn.prompt, Answer(repeated())))
    assert said.turns == rest
    assert send(refused, context) == (answer, ended), "a fresh conversation with the same turns answers otherwise"

    chat.reset()
    alone, _ = send(refused, 8)
    said.reset()
    said.system = "Be brief."
    assert send(refused, 8)[0] != alone, "the system's text should be read"
    said.system = None
    chat.close()
