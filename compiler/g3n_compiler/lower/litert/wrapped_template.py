"""A chat template in the form that LiteRT-LM's renderer needs: contents as the template takes them, all variables set.

The engine hands every content over as a list of parts, and knows only ``bos_token`` of the special tokens. So what
takes texts gets them from a loop that comes before the template, and what the template reads as ``messages`` is what
that loop has made. The template itself is left as it is, with all its conditions.
"""

from __future__ import annotations

from g3n_runtime.prompt import ChatTemplate
from g3n_runtime.template import names_used, renamed

_MESSAGES, _WRAPPED = "messages", "g3n_messages"


def wrapped(template: ChatTemplate) -> str:
    """``template`` for the engine.

    Its messages keep their role and content, as :meth:`~g3n_runtime.prompt.ChatTemplate.adapted` writes it.
    """
    used = names_used(template.jinja)
    variables = "".join(
        f"{{% set {name} = {value!r} %}}"
        for name, value in sorted(template.variables.items())
        if name in used and name != "bos_token"
    )
    if template.content == "parts":
        return variables + template.jinja
    return variables + _messages(template) + renamed(template.jinja, _MESSAGES, _WRAPPED)


def _messages(template: ChatTemplate) -> str:
    """The loop that fills ``g3n_messages``; no template has names like its own."""
    if template.media == "parts":
        beside = "{% set g3n.content = g3n_message['content'] %}"
    else:
        parts = "".join(
            f"{{% elif g3n_part['type'] == {kind!r} %}}{{% set g3n.content = g3n.content + {text!r} %}}"
            for kind, text in sorted(template.placeholders.items())
        )
        beside = (
            "{% set g3n.content = '' %}{% for g3n_part in g3n_message['content'] %}{% if g3n_part['type'] == 'text' %}"
            "{% set g3n.content = g3n.content + g3n_part['text'] | trim %}" + parts + "{% endif %}{% endfor %}"
        )
    plain = (
        "{% set g3n.content = '' %}{% for g3n_part in g3n_message['content'] %}"
        "{% set g3n.content = g3n.content + g3n_part['text'] %}{% endfor %}"
    )
    return (
        "{% set g3n = namespace(messages=[], content='') %}{% for g3n_message in messages %}"
        "{% if g3n_message['content'] is string %}{% set g3n.content = g3n_message['content'] %}"
        "{% elif g3n_message['content'] | rejectattr('type', 'equalto', 'text') | list | length == 0 %}"
        + plain
        + "{% else %}"
        + beside
        + "{% endif %}{% set g3n.messages = g3n.messages + [{'role': g3n_message['role'], 'content': g3n.content}] %}"
        "{% endfor %}{% set g3n_messages = g3n.messages %}"
    )
