"""The tokenizer and the chat template beside an adapter, which a trainer saved with it, held against the checkpoint's.

PEFT's examples load the tokenizer from the adapter's folder. A bundle takes the checkpoint's, so one that is other must
not be passed over: an adapter that was trained on other prompts answers worse without any error.
"""

from __future__ import annotations

from pathlib import Path

from g3n_compiler.checkpoint.chat_template import find_chat_template, load_chat_template
from g3n_compiler.checkpoint.conversations import Conversation, conversations
from g3n_compiler.checkpoint.fields import present
from g3n_compiler.checkpoint.tokenizer import TOKENIZER_JSON, TextTokenizer
from g3n_compiler.checkpoint.tokenizer_json import token_ids
from g3n_compiler.errors import CheckpointError, TokenizerError
from g3n_runtime.prompt import ChatTemplate

REMEDY = (
    "if the adapter was trained with it, copy it into a copy of the checkpoint's folder and compile that; if not, take "
    "it out of the adapter's folder"
)


def require_same_text(adapter: Path, tokenizer: TextTokenizer) -> None:
    """Raise :class:`CheckpointError` if a file beside the adapter makes other prompts of texts."""
    _require_same_tokens(adapter, tokenizer)
    found = find_chat_template(adapter)
    if found.where is None or found.text == tokenizer.template.jinja:
        return
    where = adapter / found.where
    try:
        own = load_chat_template(adapter)
    except TokenizerError as error:
        raise CheckpointError(f"the chat template beside the adapter cannot be used ({error}): {REMEDY}") from None
    for name, messages in conversations((), found.text):
        if _written(tokenizer.template, messages) != _written(own, messages):
            raise CheckpointError(
                f"{where} has a chat template that writes {name} otherwise than the checkpoint's, which is the one "
                f"that a bundle gets: {REMEDY}"
            )


def _require_same_tokens(adapter: Path, tokenizer: TextTokenizer) -> None:
    path = adapter / TOKENIZER_JSON
    if not present(path):
        return
    theirs, ours = token_ids(path), token_ids(tokenizer.json_path)
    if theirs == ours:
        return
    other = min(token for token in theirs.keys() | ours.keys() if theirs.get(token) != ours.get(token))
    raise CheckpointError(
        f"{path} has the token {other[:40]!r} as {_shown(theirs.get(other))}, the checkpoint's tokenizer as "
        f"{_shown(ours.get(other))}: {REMEDY}"
    )


def _shown(number: int | None) -> str:
    return "none" if number is None else str(number)


def _written(template: ChatTemplate, messages: Conversation) -> str | None:
    try:
        return template.render(messages, TokenizerError)
    except TokenizerError:
        return None
