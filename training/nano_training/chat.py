"""Gemma's chat form as plain text, as ``chat_template.jinja`` renders it."""

from collections.abc import Sequence

START = "<start_of_turn>"
END = "<end_of_turn>"

Turn = tuple[str, str]
"""What the user says, and what the model answers."""


def render(turns: Sequence[Turn], system: str = "") -> str:
    """The whole conversation, without the leading ``<bos>``; the system text is a prefix of the first user turn."""
    parts: list[str] = []
    for i, (user, model) in enumerate(turns):
        prefix = f"{system}\n\n" if system and i == 0 else ""
        parts.append(f"{START}user\n{prefix}{user}{END}\n{START}model\n{model}{END}\n")
    return "".join(parts)
