"""What was said in a chat, what of it fits the context, and why an answer ended: one place for every engine."""

from __future__ import annotations

import bisect
import enum
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from g3n_runtime.errors import ContextFull, EngineError

M = TypeVar("M")
"""A picture or a sound in the form that an engine takes."""
NUL = "\0"
"""Where LiteRT-LM ends a text, and all that follows in the prompt, without an error (0.18.1)."""
NUL_REFUSED = "a NUL character in a prompt would end it there for some engines: leave it out"
ANSWER_SHARE = 8
"""Turns are dropped until an answer may take this part of the context, if that can be reached."""


class Ended(enum.Enum):
    """Why an answer ended."""

    END_OF_TURN = "the model ended it"
    TOKEN_LIMIT = "it has as many tokens as were asked for"
    CONTEXT_FULL = "the context is full"
    CANCELLED = "it was cancelled"

    @property
    def is_cut(self) -> bool:
        """Whether the model would have said more."""
        return self is not Ended.END_OF_TURN


def limit_of(max_new_tokens: int | None, room: int) -> tuple[int, Ended]:
    """Most tokens that an answer may have where ``room`` are left, and why it ends there."""
    if max_new_tokens is None or max_new_tokens > room:
        return room, Ended.CONTEXT_FULL
    return max_new_tokens, Ended.TOKEN_LIMIT


def require_room(tokens: int, context: int) -> int:
    """Tokens that a prompt of ``tokens`` leaves of ``context`` for the answer, at least one.

    Raises:
        ContextFull: it leaves none.
    """
    if tokens < context:
        return context - tokens
    raise ContextFull(
        f"the prompt has {tokens} tokens, at most {context - 1} fit the bundle's context of {context}: "
        "shorten it, or compile with a longer --context",
        tokens=tokens,
        context=context,
    )


def require_within(end: int, context: int) -> None:
    """Raise :class:`EngineError` for a call of the model whose last token would lie past its context."""
    if end > context:
        raise EngineError(f"{end} tokens do not fit the bundle's context of {context}")


class Answer(Iterator[str]):
    """An answer's pieces of text as they come; afterwards :attr:`ended` says why it ended.

    Args:
        pieces: returns why it ended; closing it stops the engine.
    """

    def __init__(self, pieces: Generator[str, None, Ended]) -> None:
        self._pieces = pieces
        self.ended: Ended | None = None

    def __iter__(self) -> Answer:
        return self

    def __next__(self) -> str:
        try:
            return next(self._pieces)
        except StopIteration as end:
            self.ended = self.ended or end.value
            raise StopIteration from None
        except KeyboardInterrupt:
            self.ended = Ended.CANCELLED
            raise

    def close(self) -> None:
        """Stop the engine, if it is still answering."""
        self.ended = self.ended or Ended.CANCELLED
        self._pieces.close()


@dataclass(frozen=True)
class Caption:
    """A text that stands before a medium, such as the time of a video's frame."""

    text: str


@dataclass(frozen=True)
class Prompt(Generic[M]):
    """What a user says: pictures, then sounds, some with a caption before them, then text.

    Raises:
        EngineError: the text has a NUL character.
    """

    text: str
    media: tuple[M | Caption, ...] = ()

    def __post_init__(self) -> None:
        require_whole(self.text)


@dataclass(frozen=True)
class Turn(Generic[M]):
    """A prompt and the answer to it, cut or whole."""

    prompt: Prompt[M]
    answer: str
    ended: Ended


Count = Callable[[Sequence[Turn[M]], Prompt[M]], int]
"""Tokens that an engine reads for a prompt after some turns, the system's text and bos included."""


class Conversation(Generic[M]):
    """The system's text and the turns so far; a turn is in it whole or not at all.

    Args:
        system: the system text, which comes before the first turn.
    """

    def __init__(self, system: str | None = None) -> None:
        self.system = system
        self._turns: tuple[Turn[M], ...] = ()

    @property
    def system(self) -> str | None:
        """What the model is told before the first turn; setting it raises :class:`EngineError` for a NUL character."""
        return self._system

    @system.setter
    def system(self, text: str | None) -> None:
        require_whole(text or "")
        self._system = text

    @property
    def turns(self) -> tuple[Turn[M], ...]:
        """The turns, the oldest first."""
        return self._turns

    def reset(self) -> None:
        """Forget all turns; the system's text stays."""
        self._turns = ()

    def drop(self, count: int = 1) -> int:
        """Forget the ``count`` oldest turns, or all if there are fewer.

        Returns:
            how many were forgotten.
        """
        before = len(self._turns)
        self._turns = self._turns[max(count, 0) :]
        return before - len(self._turns)

    def require_room(self, prompt: Prompt[M], context: int, count: Count[M]) -> int:
        """Tokens that ``prompt`` leaves of ``context`` for the answer, at least one.

        Raises:
            ContextFull: it leaves none; the conversation stays as it is.
        """
        tokens, held = count(self._turns, prompt), len(self._turns)
        if tokens < context or not held:
            return require_room(tokens, context)
        least = count((), prompt)
        if least >= context:
            to_drop, advice = None, f"this prompt alone has {least}: shorten it, or compile with a longer --context"
        else:
            room = min(max(context // ANSWER_SHARE, 1), context - least)
            enough = range(1, held + 1)
            to_drop = 1 + bisect.bisect_left(
                enough, True, key=lambda n: count(self._turns[n:], prompt) + room <= context
            )
            advice = f"dropping the oldest {_turns(to_drop)} of {held} makes room"
        raise ContextFull(
            f"the conversation has {tokens} tokens with this prompt, at most {context - 1} fit the bundle's context "
            f"of {context}: {advice}",
            tokens=tokens,
            context=context,
            to_drop=to_drop,
        )

    def answered(self, prompt: Prompt[M], answer: Answer) -> Answer:
        """``answer``, after which the turn is kept.

        An answer that is cut, by a limit or by whoever reads it, is kept as far as it was said. The turn is not kept if
        the engine fails, if nothing had been said when the answer was cancelled, or if the conversation was changed
        meanwhile.
        """
        return Answer(self._kept(prompt, answer))

    def _kept(self, prompt: Prompt[M], answer: Answer) -> Generator[str, None, Ended]:
        before, said = self._turns, ""
        try:
            for piece in answer:
                said += piece
                yield piece
        except (GeneratorExit, KeyboardInterrupt):
            answer.close()
            if said:
                self._keep(before, Turn(prompt, said, Ended.CANCELLED))
            raise
        ended = answer.ended or Ended.END_OF_TURN
        self._keep(before, Turn(prompt, said, ended))
        return ended

    def _keep(self, before: tuple[Turn[M], ...], turn: Turn[M]) -> None:
        if self._turns is before:
            # A model can draw the byte 0, and the answer is a part of the next prompt.
            self._turns = (*before, replace(turn, answer=turn.answer.replace(NUL, "\ufffd")))


def text_of(parts: Sequence[object]) -> str:
    """What :meth:`g3n_runtime.prompt.ChatTemplate.prompt` gives for a conversation without media, as one text."""
    return "".join(part for part in parts if isinstance(part, str))


def require_whole(text: str) -> None:
    """Raise :class:`EngineError` for a text with a NUL character."""
    if NUL in text:
        raise EngineError(NUL_REFUSED)


def _turns(count: int) -> str:
    return "turn" if count == 1 else f"{count} turns"
