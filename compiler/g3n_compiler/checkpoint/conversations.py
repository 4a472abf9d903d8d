"""Conversations on which the prompts of all runtimes are compared with those of ``transformers``.

They have what templates treat differently: a system's text, several turns, spaces around texts, letters of several
bytes, empty texts, pictures and sounds. A template that looks for something in a text, such as ``</think>``, or that
counts turns or letters, is also tried on what its own constants name. None spells a control token: SentencePiece never
reads one in a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from g3n_runtime.template import tested_constants

Conversation = Sequence[Mapping[str, Any]]
_SHORT = "What is a dog?"
_SPACED = "  two\tlines,\n\n   one of them indented: x = 1;\n\n\n"
_MOST_TEXTS, _MOST_TURNS, _MOST_LETTERS = 24, 48, 8192
"""Limits of what is made of a template's constants."""
_TURNS = 12
"""Messages of the longest conversation, or more if the template counts further."""
_NEVER = ("<bos>", "<eos>", "<pad>", "<unk>", "_soft_token>")
_LETTERS = "Grüße, naïve 東京 “नमस्ते” 🙂🏽 <b>&amp;</b> %d {{ x }} 1234567.89"


def user(text: str, *media: str) -> dict[str, Any]:
    """A user's turn; ``media`` are ``image`` and ``audio``, which come before the text."""
    if not media:
        return {"role": "user", "content": text}
    return {"role": "user", "content": [*({"type": kind} for kind in media), {"type": "text", "text": text}]}


def model(text: str) -> dict[str, Any]:
    """An answer."""
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, Any]:
    """The system text, which comes before the first turn."""
    return {"role": "system", "content": text}


TEXT: Mapping[str, Conversation] = {
    "one turn": [user(_SHORT)],
    "spaces": [user(_SPACED)],
    "letters of several bytes": [user(_LETTERS)],
    "two turns": [user(_SHORT), model("An animal."), user("And a cat?")],
    "three turns with spaces": [user(_SPACED), model("  Yes.\n"), user(_LETTERS), model(_LETTERS), user(" No ")],
    "a system's text": [system("Answer in one word."), user(_SHORT)],
    "a system's text and two turns": [
        system(" Be brief.\nBe kind. "),
        user(_SPACED),
        model("Yes."),
        user(_SHORT),
    ],
    "empty texts": [user(_SHORT), model(""), user("")],
}
"""Those that every checkpoint can have, by what they show."""


def conversations(media: Sequence[str], template: str = "") -> Iterator[tuple[str, Conversation]]:
    """All that a checkpoint with these kinds of media can have.

    Args:
        template: the chat template, whose constants are tried too.
    """
    yield from TEXT.items()
    for kind in media:
        yield f"one {kind}", [user("What is this?", kind)]
        yield f"{kind} and spaces", [user("  What\nis this? \n", kind)]
        yield f"{kind} without a text", [user("", kind)]
        yield f"{kind} in the second turn", [user(_SHORT), model("An animal."), user("This?", kind)]
        yield (
            f"{kind} after a system's text",
            [system("Be brief."), user("This?", kind), model("7"), user("Why?")],
        )
    if media:
        yield "several media", [user("Compare.", *media, *media)]
    yield from _of_constants(template)


def _of_constants(template: str) -> Iterator[tuple[str, Conversation]]:
    """Conversations with each text that the template looks for, of more turns and longer texts than it counts."""
    texts, numbers = tested_constants(template) if template else ((), ())
    counted = [n for n in numbers if n <= _MOST_TURNS]
    turns = max(_TURNS, *counted, 0) + 2 if counted else _TURNS
    # an odd number, for the user has the last word
    yield f"{turns | 1} messages", [_numbered(i) for i in range(turns | 1)]
    if long := [n for n in numbers if len(_SHORT) < n <= _MOST_LETTERS]:
        words = ("word " * (max(long) // 5 + 2)).strip()
        yield "a long text", [user(words), model(words), user(words)]
    told = [t for t in texts if not any(never in t for never in _NEVER)][:_MOST_TEXTS]
    for text in told:
        shown = repr(text[:40])
        yield f"texts around {shown}", [user(f"{text}a{text} b{text}"), model(f"{text}a{text} b{text}"), user("And?")]
        yield f"texts that are {shown}", [user(text), model(text), user(text)]
    if told:
        every = " x ".join(told)
        yield "a system's text with all that the template looks for", [system(every), user(every)]


def _numbered(index: int) -> dict[str, Any]:
    return model(f"Answer {index}.") if index % 2 else user(f"Question {index}?")
