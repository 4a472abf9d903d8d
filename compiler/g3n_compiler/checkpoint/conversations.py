"""Conversations on which the prompts of all runtimes are compared with those of ``transformers``.

They have what templates treat differently: a system's text, several turns, spaces around texts, letters of several
bytes, pictures and sounds. None spells a special token: SentencePiece never reads one in a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Conversation = Sequence[Mapping[str, Any]]
_SHORT = "What is a dog?"
_SPACED = "  two\tlines,\n\n   one of them indented: x = 1;\n\n\n"
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
    """What the model is told before the first turn."""
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
}
"""Those that every checkpoint can have, by what they show."""


def conversations(media: Sequence[str]) -> Iterator[tuple[str, Conversation]]:
    """All that a checkpoint with these kinds of media can have."""
    yield from TEXT.items()
    for kind in media:
        yield f"one {kind}", [user("What is this?", kind)]
        yield f"{kind} and spaces", [user("  What\nis this? \n", kind)]
        yield f"{kind} in the second turn", [user(_SHORT), model("An animal."), user("This?", kind)]
        yield (
            f"{kind} after a system's text",
            [system("Be brief."), user("This?", kind), model("7"), user("Why?")],
        )
    if media:
        yield "several media", [user("Compare.", *media, *media)]
