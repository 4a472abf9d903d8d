"""The texts of tokens that a ``tokenizer_config.json`` calls by name, such as ``bos_token`` or ``image_token``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

GROUPS = ("model_specific_special_tokens", "extra_special_tokens")
"""Objects that hold names too; of several places, the last counts."""


def token_texts(settings: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    """The text of each of ``names`` that ``settings`` has, as a text or as an added token's object."""
    found: dict[str, str] = {}
    for fields in (settings, *(settings.get(group) for group in GROUPS)):
        if not isinstance(fields, dict):
            continue
        for name in names:
            token = fields.get(name)
            text = token.get("content") if isinstance(token, dict) else token
            if isinstance(text, str):
                found[name] = text
    return found
