"""The tokens that stand for media in a prompt, as the tokenizer names them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from g3n_compiler.checkpoint.fields import present, read_json
from g3n_compiler.checkpoint.token_texts import token_texts
from g3n_compiler.checkpoint.tokenizer_json import token_ids
from g3n_compiler.errors import TokenizerError

NAMES = ("boi_token", "image_token", "eoi_token", "boa_token", "audio_token", "eoa_token")


def media_tokens(directory: Path, ids: Mapping[str, int] | None = None) -> dict[str, int]:
    """The ids of those of :data:`NAMES` that ``tokenizer_config.json`` gives and ``tokenizer.json`` has.

    Args:
        ids: what :func:`token_ids` gives, if it has been called.
    """
    settings, path = directory / "tokenizer_config.json", directory / "tokenizer.json"
    if not present(settings) or not present(path):
        return {}
    named, ids = token_texts(read_json(settings, TokenizerError), NAMES), token_ids(path) if ids is None else ids
    return {name: ids[text] for name, text in named.items() if text in ids}
