"""Compare the tokenizer that ``transformers`` has loaded with the ``tokenizer.json`` that a bundle is made from.

A few conversations show only the tokens that are in them. A class of ``transformers`` can put its own rules in place of
the file's, and ``tokenizer_config.json`` can add tokens that the file lacks, so rules and tokens are compared as such.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

from g3n_compiler.checkpoint.tokenizer_json import splits_at_spaces
from g3n_compiler.errors import TokenizerError

IGNORED = frozenset({"unk_token", "fuse_unk", "type"})
"""Of the model: with byte fallback no text has an unknown token."""
FLAGS = ("id", "single_word", "lstrip", "rstrip")
"""Of an added token; the others decide only what decoding leaves out."""


def require_same_rules(loaded: Any, own: Tokenizer) -> None:
    """Raise :class:`TokenizerError` unless ``loaded``, a tokenizer of ``transformers``, has the rules of ``own``.

    Args:
        own: what ``tokenizer.json`` holds.
    """
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:  # one that is not of the tokenizers library: its prompts alone can be compared
        return
    difference = _added_difference(_added(backend), _added(own))
    # Of a published vocabulary each is a text of 16 MB, whose values take seconds to read.
    if difference is None and (theirs := backend.to_str()) != (ours := own.to_str()):
        difference = _difference(json.loads(theirs), json.loads(ours))
    if difference is not None:
        raise TokenizerError(
            f"the {type(loaded).__name__} that transformers loads reads texts otherwise than tokenizer.json: "
            f"{difference}. Take tokenizer.json and tokenizer_config.json from one model, or save the tokenizer again "
            "with transformers"
        )


def _added(tokenizer: Tokenizer) -> dict[str, dict[str, Any]]:
    """:data:`FLAGS` of each added token, by its text."""
    found = tokenizer.get_added_tokens_decoder()
    return {t.content: {"id": i, **{flag: getattr(t, flag) for flag in FLAGS[1:]}} for i, t in found.items()}


def _added_difference(theirs: Mapping[str, Mapping[str, Any]], ours: Mapping[str, Mapping[str, Any]]) -> str | None:
    for token in sorted(theirs.keys() | ours.keys()):
        shown = repr(token[:40])
        if token not in ours:
            return f"it adds the token {shown}, which tokenizer.json lacks"
        if token not in theirs:
            return f"it does not know the added token {shown}"
        if changed := [flag for flag in FLAGS if theirs[token][flag] != ours[token][flag]]:
            name = changed[0]
            return f"{shown} has {name} {theirs[token][name]} instead of {ours[token][name]}"
    return None


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str | None:
    for name in sorted(theirs["model"].keys() - IGNORED):
        if theirs["model"][name] != ours["model"].get(name):
            return f"its {name} is another"
    if theirs["normalizer"] != ours["normalizer"]:
        return f"its normalizer is {_kind(theirs['normalizer'])}, the file's {_kind(ours['normalizer'])}"
    splits = [None if splits_at_spaces(spec) else spec["pre_tokenizer"] for spec in (theirs, ours)]
    if splits[0] != splits[1]:
        return f"its pre-tokenizer is {_kind(splits[0])}, the file's {_kind(splits[1])}"
    return None


def _kind(rule: Mapping[str, Any] | None) -> str:
    return "none" if rule is None else str(rule.get("type"))
