"""Render a chat template, and look into its text: what it tests, and the names that it uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import Template, nodes

from g3n_runtime.errors import G3nError
from g3n_runtime.template_check import check_template
from g3n_runtime.template_environment import template_environment

MAX_OUTPUT = 1 << 20
"""Characters of a conversation as a template writes it."""


def render(text: str, messages: Sequence[Mapping[str, Any]], error: type[G3nError], **variables: Any) -> str:
    """``messages`` as the template writes them; ``error`` for what is refused, fails or is longer than any prompt."""
    check_template(text, error)
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "add_generation_prompt": True} | variables
    output, size = [], 0
    try:
        for piece in _compiled(text).generate(messages=messages, **names):
            size += len(piece)
            if size > MAX_OUTPUT:
                raise error(f"the chat template writes more than {MAX_OUTPUT} characters for a short conversation")
            output.append(piece)
    except G3nError:
        raise
    except Exception as reason:  # whatever the template's operations meet, its own raise_exception too
        raise error(f"the chat template fails on a conversation ({str(reason)[:200]})") from None
    return "".join(output)


def tested_constants(text: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The texts and the numbers that decide what a template writes: what it compares with, looks for or counts to.

    A conversation that has none of them can look like one of a plainer template.
    """
    texts, numbers = dict[str, None](), dict[int, None]()
    deciding = (nodes.Compare, nodes.Call, nodes.Filter, nodes.Slice, nodes.Test)
    for node in template_environment().parse(text).find_all(deciding):
        for constant in node.find_all(nodes.Const):
            value = constant.value
            if isinstance(value, str) and value:
                texts[value] = None
            elif type(value) is int:
                numbers[abs(value)] = None
    return tuple(texts), tuple(numbers)


def names_used(text: str) -> frozenset[str]:
    """Every name that a template reads or sets."""
    return frozenset(node.name for node in template_environment().parse(text).find_all(nodes.Name))


def renamed(text: str, name: str, other: str) -> str:
    """A template that reads ``other`` where ``text`` reads the variable ``name``; attributes keep their names.

    A newline in a literal is written as an escape, since LiteRT-LM's renderer fails on some that hold one.
    """
    out, before = list[str](), ""
    for _, kind, value in template_environment().lex(text):
        if kind == "string":
            value = value.replace("\n", "\\n")
        out.append(other if (kind, value) == ("name", name) and before != "." else value)
        if kind != "whitespace":
            before = value
    return "".join(out)


@lru_cache(maxsize=8)
def _compiled(text: str) -> Template:
    return template_environment().from_string(text)
