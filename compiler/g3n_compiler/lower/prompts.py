"""The prompts that a runtime makes of conversations, to be compared with those of ``transformers``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from g3n_compiler.checkpoint.conversations import Conversation
from g3n_compiler.errors import TokenizerError

if TYPE_CHECKING:
    from g3n_compiler.lower.job import Job


class RuntimePrompt(NamedTuple):
    """One prompt, bos apart; a medium is its placeholder in the text, and its first, soft and last token in the ids."""

    text: str
    ids: tuple[int, ...]


Prompts = Sequence[RuntimePrompt | None]
"""Those of several conversations; ``None`` for one that the template refuses."""


class Answers(NamedTuple):
    """What a stock engine makes of a finished bundle."""

    texts: list[str]
    """Greedy text of a chat's first turn, for each prompt."""
    prompts: Prompts
    """Of each conversation, under the template and the tokenizer that lie in the bundle's files."""


class SoftTokenIds(NamedTuple):
    """The ids that open, fill and close a picture or a sound."""

    begin: int
    soft: int
    end: int


def own_prompts(job: Job, conversations: Sequence[Conversation], encode: Callable[[str], list[int]]) -> Prompts:
    """What our own renderer, :mod:`g3n_runtime.prompt`, and a tokenizer make of conversations."""
    template, out = job.tokenizer.template, list[RuntimePrompt | None]()
    for messages in conversations:
        try:
            text = template.render(messages, TokenizerError).removeprefix(template.bos)
        except TokenizerError:
            out.append(None)
            continue
        ids: list[int] = []
        for piece, kind in template.split(text):
            ids += encode(piece)
            if kind is not None:
                ids += job.soft_tokens[kind]
        out.append(RuntimePrompt(template.spaced(text), tuple(ids)))
    return out
