"""The prompt that a conversation becomes: the checkpoint's own chat template, rendered as ``transformers`` does.

Every engine that is given text or tokens uses this; LiteRT-LM renders the template in its file itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from g3n_runtime.conversation import Caption, Prompt, Turn
from g3n_runtime.errors import EngineError, G3nError
from g3n_runtime.template import render

M = TypeVar("M")
Message = Mapping[str, Any]
Content = Literal["text", "parts"]
"""What a template takes as a message's content: a text, or a list of parts as ``{"type": "text", "text": ...}``."""
AROUND = "\n\n"
"""Gemma 3n's processor puts it on both sides of a picture or a sound."""


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template, and what it needs to be rendered.

    Attributes:
        jinja: the template.
        variables: texts of the special tokens, by the names under which the template sees them.
        content: how it takes a text alone.
        media: how it takes a text with pictures or sounds; in a text, placeholders stand for them.
        placeholders: the text that stands for a part of each type that is not text, ``image`` and ``audio``.
    """

    jinja: str
    variables: Mapping[str, str] = field(default_factory=dict)
    content: Content = "text"
    media: Content = "parts"
    placeholders: Mapping[str, str] = field(default_factory=dict)

    @property
    def bos(self) -> str:
        return self.variables.get("bos_token", "")

    def render(
        self,
        messages: Sequence[Message],
        error: type[G3nError] = EngineError,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt's text, which begins with bos if the template writes it.

        Raises:
            EngineError: the template refuses these messages, such as a system's where it has no place for it.
        """
        names = {**self.variables, "add_generation_prompt": add_generation_prompt, **variables}
        return render(self.jinja, [self.adapted(message) for message in messages], error, **names)

    def adapted(self, message: Message) -> Message:
        """``message`` with its content in the form that the template takes."""
        content = message["content"]
        if isinstance(content, str):
            return message if self.content == "text" else {**message, "content": [{"type": "text", "text": content}]}
        if all(part["type"] == "text" for part in content):
            text = "".join(part["text"] for part in content)
            return {**message, "content": text} if self.content == "text" else message
        if self.media == "parts":
            return message
        written = (p["text"].strip() if p["type"] == "text" else self.placeholders[p["type"]] for p in content)
        return {**message, "content": "".join(written)}

    def prompt(
        self,
        system: str | None,
        turns: Sequence[Turn[M]],
        prompt: Prompt[M],
        kind_of: Callable[[M], str] = str,
    ) -> list[str | M]:
        """A conversation and a new prompt as texts and media in their order, without the bos that every engine adds.

        Args:
            kind_of: the type of a medium, ``image`` or ``audio``.

        Raises:
            EngineError: the template refuses the conversation, or a text contains what stands for a medium.
        """
        messages: list[Message] = [{"role": "system", "content": system}] if system else []
        for turn in turns:
            messages += [_user(turn.prompt, kind_of), {"role": "assistant", "content": turn.answer}]
        messages.append(_user(prompt, kind_of))
        given = [medium for said in (*(turn.prompt for turn in turns), prompt) for medium in said.media]
        media = [medium for medium in given if not isinstance(medium, Caption)]
        text = self.render(messages).removeprefix(self.bos)
        pieces = self.split(text)
        if [kind for _, kind in pieces[:-1]] != [kind_of(medium) for medium in media]:
            raise EngineError(
                f"the prompt has {len(pieces) - 1} placeholders for {len(media)} pictures and sounds: leave "
                f"{' and '.join(self.placeholders.values()) or 'placeholders'} out of the text"
            )
        out: list[str | M] = []
        for (piece, _), medium in zip(pieces, [*media, None], strict=True):
            out += [piece] if medium is None else [piece, medium]
        return out

    def split(self, text: str, around: str = AROUND) -> list[tuple[str, str | None]]:
        """The texts between placeholders, each with the type of the placeholder that follows; none follows the last.

        Args:
            around: what the processor puts on both sides of a medium, which becomes part of the texts.
        """
        kinds = {placeholder: kind for kind, placeholder in self.placeholders.items()}
        if not kinds:
            return [(text, None)]
        pieces = re.split("(" + "|".join(re.escape(p) for p in kinds) + ")", text)
        texts, between = pieces[::2], [kinds[p] for p in pieces[1::2]]
        last = len(texts) - 1
        return [
            ((around if i else "") + piece + (around if i < last else ""), between[i] if i < last else None)
            for i, piece in enumerate(texts)
        ]

    def spaced(self, text: str) -> str:
        """``text`` with what the processor puts on both sides of each placeholder."""
        return "".join(piece + (self.placeholders[kind] if kind else "") for piece, kind in self.split(text))


def _user(prompt: Prompt[M], kind_of: Callable[[M], str]) -> Message:
    if not prompt.media:
        return {"role": "user", "content": prompt.text}
    parts = [
        {"type": "text", "text": medium.text} if isinstance(medium, Caption) else {"type": kind_of(medium)}
        for medium in prompt.media
    ]
    return {"role": "user", "content": [*parts, {"type": "text", "text": prompt.text}]}


def read_template(manifest: Mapping[str, Any]) -> ChatTemplate:
    """The chat template that a bundle's manifest carries."""
    fields = manifest["template"]
    return ChatTemplate(
        fields["jinja"], fields["variables"], fields["content"], fields["media"], fields["placeholders"]
    )
