"""A chat template as the few texts that stand between what people and the model say.

The app has no Jinja, and LiteRT-LM's renderer lacks some of it: both get these texts. They are derived by rendering
and then compared with the template itself; a template that is more than such texts has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from g3n_compiler.checkpoint.conversations import Conversation, conversations, model, system, user
from g3n_compiler.errors import TokenizerError
from g3n_runtime.prompt import ChatTemplate

_USER, _MODEL, _LATER, _SYSTEM = "Qone1", "Rtwo2", "Sthree3", "Tfour4"
_ANOTHER_DAY = "another day"


class NoTurns(Exception):
    """Why a template is not such texts."""


@dataclass(frozen=True)
class Turns:
    """The texts of a chat template, bos apart."""

    first: str
    """Before the first user's text, if there is no system's text."""
    system: tuple[str, str] | None
    """Before and after the system's text, up to the first user's; ``None`` if the template refuses a system's text."""
    answer: str
    """Between a user's text and an answer that was given."""
    next: str
    """Between an answer and the next user's text."""
    generation: str
    """Between the last user's text and the answer to come."""
    strip_user: bool
    """Whether the space around a user's text is left out."""
    strip_user_with_media: bool
    """The same for a text beside pictures or sounds, which come before it."""
    strip_answer: bool
    strip_system: bool

    def render(self, messages: Conversation, placeholders: dict[str, str]) -> str:
        """What the template writes, bos apart.

        Raises:
            TokenizerError: it has no place for a system's text.
        """
        out, rest = [self.first], list(messages)
        if rest[0]["role"] == "system":
            if self.system is None:
                raise TokenizerError("the chat template takes no system's text")
            out = [self.system[0], _stripped(rest.pop(0)["content"], self.strip_system), self.system[1]]
        for i, message in enumerate(rest):
            if message["role"] == "assistant":
                out += [self.answer, _stripped(message["content"], self.strip_answer), self.next]
                continue
            out.append(self._user(message["content"], placeholders))
            if i == len(rest) - 1:
                out.append(self.generation)
        return "".join(out)

    def _user(self, content: Any, placeholders: dict[str, str]) -> str:
        if isinstance(content, str):
            return _stripped(content, self.strip_user)
        media = [placeholders[part["type"]] for part in content if part["type"] != "text"]
        return "".join(media) + _stripped(content[-1]["text"], self.strip_user_with_media)

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return asdict(self) | {"system": None if self.system is None else list(self.system)}

    def as_jinja(self) -> str:
        """A chat template that writes the same, for an engine that gives every content as a list of parts."""
        q = repr  # Jinja reads Python's literals of text

        def part(text: str, strip: bool) -> str:
            return f"{{{{ {text} | trim }}}}" if strip else f"{{{{ {text} }}}}"

        def content(message: str, strip: bool, strip_with_media: bool) -> str:
            text, beside = part("part['text']", strip), part("part['text']", strip_with_media)
            return (
                f"{{% if {message} is string %}}{part(message, strip)}{{% else %}}"
                f"{{% for part in {message} %}}{{% if part['type'] != 'text' %}}"
                "{{ '<' + part['type'] + '_soft_token>' }}"
                f"{{% elif {message} | length > 1 %}}{beside}{{% else %}}{text}{{% endif %}}{{% endfor %}}{{% endif %}}"
            )

        if self.system is None:
            opening = "{{ raise_exception('the chat template takes no system text') }}"
        else:
            told = content("messages[0]['content']", self.strip_system, self.strip_system)
            opening = f"{{{{ {q(self.system[0])} }}}}{told}{{{{ {q(self.system[1])} }}}}"
        answered = content("turn['content']", self.strip_answer, self.strip_answer)
        asked = content("turn['content']", self.strip_user, self.strip_user_with_media)
        return (
            "{{ bos_token }}{% set turns = messages %}"
            "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}"
            f"{opening}{{% else %}}{{{{ {q(self.first)} }}}}{{% endif %}}"
            "{% for turn in turns %}{% if turn['role'] == 'assistant' %}"
            f"{{{{ {q(self.answer)} }}}}{answered}{{{{ {q(self.next)} }}}}{{% else %}}{asked}{{% endif %}}"
            f"{{% endfor %}}{{% if add_generation_prompt %}}{{{{ {q(self.generation)} }}}}{{% endif %}}"
        )


def derive_turns(template: ChatTemplate, media: Sequence[str]) -> Turns:
    """The texts of ``template``, proven equal on :func:`conversations` of these ``media`` and its own constants.

    Raises:
        NoTurns: it is more than such texts; the message says in what.
    """

    def parts(messages: Conversation, *said: str) -> list[str]:
        return _split(_rendered(template, messages), said)

    first, generation = parts([user(_USER)], _USER)
    opened, answer, then, last = parts([user(_USER), model(_MODEL), user(_LATER)], _USER, _MODEL, _LATER)
    if (opened, last) != (first, generation):
        raise NoTurns("it opens or ends a conversation of two turns otherwise than one of one")
    told: tuple[str, str] | None
    try:
        before, after, _ = parts([system(_SYSTEM), user(_USER)], _SYSTEM, _USER)
        told = before, after
    except TokenizerError:
        told = None
    with_media = [user(f" {_USER} ", kind) for kind in media[:1]]
    turns = Turns(
        first,
        told,
        answer,
        then,
        generation,
        strip_user=_strips(template, [user(f" {_USER} ")], _USER),
        strip_user_with_media=bool(with_media) and _strips(template, with_media, _USER),
        strip_answer=_strips(template, [user(_USER), model(f" {_MODEL} "), user(_LATER)], _MODEL),
        strip_system=told is not None and _strips(template, [system(f" {_SYSTEM} "), user(_USER)], _SYSTEM),
    )
    _prove(turns, template, media)
    return turns


def _prove(turns: Turns, template: ChatTemplate, media: Sequence[str]) -> None:
    placeholders = dict(template.placeholders)
    for name, messages in conversations(media, template.jinja):
        ours, own = (
            _or_refused(write)
            for write in (
                lambda m=messages: turns.render(m, placeholders),
                lambda m=messages: _rendered(template, m),
            )
        )
        if ours != own:
            raise NoTurns(f"it writes {name} in a form of its own")
    dated = _or_refused(lambda: _rendered(template, [user(_USER)], strftime_now=lambda form: _ANOTHER_DAY))
    if dated != _or_refused(lambda: _rendered(template, [user(_USER)])):
        raise NoTurns("it writes the date")


def _rendered(template: ChatTemplate, messages: Conversation, **variables: Any) -> str:
    return template.render(messages, TokenizerError, **variables).removeprefix(template.bos)


def _or_refused(write: Any) -> str | None:
    try:
        return str(write())
    except TokenizerError:
        return None


def _split(text: str, said: Sequence[str]) -> list[str]:
    """The texts around each of ``said``, which must come once and in this order."""
    out = []
    for word in said:
        before, found, text = text.partition(word)
        if not found or word in text:
            raise NoTurns("it does not write each text once and in order")
        out.append(before)
    return [*out, text]


def _strips(template: ChatTemplate, messages: Conversation, word: str) -> bool:
    text = _rendered(template, messages)
    return f" {word} " not in text


def _stripped(text: str, strip: bool) -> str:
    return text.strip() if strip else text
