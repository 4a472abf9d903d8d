"""Chat templates as the few texts that the app gets: equal to the template, or none at all."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from g3n_compiler.checkpoint.conversations import conversations
from g3n_compiler.checkpoint.turns import NoTurns, Turns, derive_turns
from g3n_compiler.errors import TokenizerError
from g3n_runtime.prompt import ChatTemplate
from tests.android.golden import CHATML, NO_SYSTEM
from tests.prompts import nano_template

MEDIA = ("audio", "image")
BOS = {"bos_token": "<bos>"}
TURN = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}{{ '[a]' if add_generation_prompt }}"


def prompts(template: ChatTemplate, media: Sequence[str]) -> list[str | None]:
    out: list[str | None] = []
    for _, messages in conversations(media):
        try:
            out.append(template.render(messages, TokenizerError).removeprefix("<bos>"))
        except TokenizerError:
            out.append(None)
    return out


def text_template(jinja: str) -> ChatTemplate:
    return ChatTemplate(jinja, BOS, "text", "text", nano_template().placeholders)


@pytest.mark.parametrize("jinja", [None, CHATML, NO_SYSTEM])
def test_the_texts_write_what_the_template_writes(jinja: str | None) -> None:
    template = nano_template() if jinja is None else text_template(jinja)
    turns, placeholders = derive_turns(template, MEDIA), dict(template.placeholders)
    assert (turns.system is None) == (jinja == NO_SYSTEM)
    for (name, messages), expected in zip(conversations(MEDIA), prompts(template, MEDIA), strict=True):
        if expected is None:
            with pytest.raises(TokenizerError):
                turns.render(messages, placeholders)
        else:
            assert turns.render(messages, placeholders) == expected, name


@pytest.mark.parametrize("jinja", [None, CHATML, NO_SYSTEM])
def test_the_same_turns_in_the_engines_jinja(jinja: str | None) -> None:
    """Every content comes as a list of parts, as LiteRT-LM hands it over."""
    template = nano_template() if jinja is None else text_template(jinja)
    again = ChatTemplate(derive_turns(template, MEDIA).as_jinja(), BOS, "parts", "parts", template.placeholders)
    assert prompts(again, MEDIA) == prompts(template, MEDIA)


@pytest.mark.parametrize(
    ("jinja", "why"),
    [
        ("{{ bos_token }}{{ strftime_now('%d %b') }}" + TURN, "the date"),
        ("{{ bos_token }}" + TURN.replace("in messages %}", "in messages[-1:] %}"), "once and in order"),
        ("{{ bos_token }}{{ messages | length }}" + TURN, "opens or ends"),
        ("{{ bos_token }}" + TURN.replace("{{ m['content'] }}", "{{ m['content'] | upper }}"), "once and in order"),
        ("{{ bos_token }}" + TURN.replace("{{ m['content'] }}", "{{ m['content'] | replace('ß', 'ss') }}"), "a form"),
        ("{{ bos_token }}" + TURN.replace("m['content']", "m['content'].split('</think>')[-1]"), "around '</think>'"),
        ("{{ bos_token }}" + TURN.replace("in messages", "in messages[-8:]"), "15 messages"),
        ("{{ bos_token }}" + TURN.replace("[{{", "{{ '!' if loop.index > 20 }}[{{"), "23 messages"),
        ("{{ bos_token }}" + TURN.replace("[{{", "{{ '!' if m['content'] | length > 300 }}[{{"), "a long text"),
        ("{{ bos_token }}" + TURN.replace("[{{", "{{ '!' if m['content'] == '/new' }}[{{"), "that are '/new'"),
        ("{{ bos_token }}" + TURN.replace("[{{", "{{ '!' if not m['content'] }}[{{"), "empty texts"),
    ],
)
def test_a_template_that_is_more_has_none(jinja: str, why: str) -> None:
    with pytest.raises(NoTurns, match=why):
        derive_turns(text_template(jinja), ())


def test_json_has_the_systems_texts_as_a_list() -> None:
    turns = derive_turns(nano_template(), ())
    fields = turns.as_json()
    assert fields["system"] == ["<start_of_turn>user\n", "\n\n"]
    assert Turns(**{**fields, "system": tuple(fields["system"])}) == turns
