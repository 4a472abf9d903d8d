"""The tokens that stand for media in a prompt, as the tokenizer names them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from g3n_compiler.checkpoint.fields import present, read_json
from g3n_compiler.checkpoint.tokenizer_json import read_tokenizer_json
from g3n_compiler.errors import TokenizerError

NAMES = ("boi_token", "image_token", "eoi_token", "boa_token", "audio_token", "eoa_token")
_GROUPS = ("extra_special_tokens", "model_specific_special_tokens")


def media_tokens(directory: Path, ids: Mapping[str, int] | None = None) -> dict[str, int]:
    """The ids of those of :data:`NAMES` that ``tokenizer_config.json`` gives and ``tokenizer.json`` has.

    Args:
        ids: what :func:`token_ids` gives, if it has been called.
    """
    settings, path = directory / "tokenizer_config.json", directory / "tokenizer.json"
    if not present(settings) or not present(path):
        return {}
    named, ids = named_tokens(read_json(settings, TokenizerError)), token_ids(path) if ids is None else ids
    return {name: ids[text] for name, text in named.items() if text in ids}


def named_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """The texts of :data:`NAMES` in a ``tokenizer_config.json``; a group's go before those beside it."""
    named: dict[str, str] = {}
    for fields in (settings, *(settings.get(group) for group in reversed(_GROUPS))):
        if not isinstance(fields, dict):
            continue
        for name in NAMES:
            token = fields.get(name)
            text = token.get("content") if isinstance(token, dict) else token
            if isinstance(text, str):
                named[name] = text
    return named


def token_ids(path: Path) -> dict[str, int]:
    """The id of every token in a ``tokenizer.json``."""
    spec = read_tokenizer_json(path)
    return {**spec["model"]["vocab"], **{token["content"]: token["id"] for token in spec.get("added_tokens") or []}}
