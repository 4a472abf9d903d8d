"""What a chat tells its user beside the answers: that one was cut, that a prompt did not fit, and what to do then."""

from __future__ import annotations

from g3n_runtime.conversation import Conversation, Ended
from g3n_runtime.errors import ContextFull

MOST_DIGITS = 9
"""Of a number of turns."""
DROP_USAGE = "/drop takes the number of turns to forget, 1 or more"


def cut(ended: Ended | None, max_tokens: int, advice: str = "") -> str | None:
    """That the model would have said more, and why it could not; ``None`` where it would not."""
    if ended is Ended.TOKEN_LIMIT:
        return f"(the answer was cut: {max_tokens} token{'s' * (max_tokens != 1)}, --max-tokens)"
    if ended is Ended.CONTEXT_FULL:
        return f"(the answer was cut: the context is full{advice})"
    return None


def refused(error: ContextFull) -> str:
    """That a prompt does not fit, that nothing is lost by that, and how to make room."""
    if error.to_drop is None:
        return f"{error}\n(what was said is kept)"
    turns = "turn" if error.to_drop == 1 else f"{error.to_drop} turns"
    offer = f"/drop forgets the oldest {turns}, /reset all of them, /retry then asks again"
    return f"{error}\n(what was said is kept; {offer})"


def drop(conversation: Conversation[object], asked: str, last: ContextFull | None) -> str:
    """Forget the oldest turns, as many as ``asked`` says, or as ``last`` needs; returns what was done."""
    if asked and not (asked.isdecimal() and len(asked) <= MOST_DIGITS and int(asked) > 0):
        return DROP_USAGE
    before = len(conversation.turns)
    dropped = conversation.drop(int(asked) if asked else (last and last.to_drop) or 1)
    again = "; /retry asks again what did not fit" if last and dropped else ""
    return f"(turns forgotten: {dropped}, kept: {before - dropped}{again})"
