"""Nano's tokenizer and chat template, for tests that need some, and one that runs away."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from g3n_compiler.checkpoint.tokenizer import TextTokenizer, load_tokenizer
from g3n_compiler.models.gemma3n.text_config import load_text_config
from g3n_compiler.nano import checkpoint_dir
from g3n_runtime.prompt import ChatTemplate


@cache
def nano_tokenizer() -> TextTokenizer:
    return load_tokenizer(checkpoint_dir(), load_text_config(checkpoint_dir()), ("text", "vision", "audio"))


def nano_template() -> ChatTemplate:
    return nano_tokenizer().template


def with_template(jinja: str) -> TextTokenizer:
    """Nano's tokenizer under another template, which nothing has looked at."""
    own = nano_tokenizer()
    return replace(own, template=replace(own.template, jinja=jinja))


def one_turn(prompt: str) -> str:
    """The prompt of one turn, bos apart."""
    template = nano_template()
    return template.render([{"role": "user", "content": prompt}]).removeprefix(template.bos)
