"""``tokenizer.json``: read and checked, and in the form ExecuTorch's runner needs, with a name for every id."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from g3n_compiler.errors import TokenizerError
from g3n_compiler.models.gemma3n.text_config import MAX_VOCABULARY
from g3n_runtime.reading import MAX_JSON_BYTES, parse_json, read_bytes

MAX_MERGES = 1 << 22
MAX_TOKEN = 1024
"""In characters."""
MAX_RULES = 1 << 18
"""Bytes of JSON for everything but the vocabulary; Gemma's has less than 4 KB."""
MAX_PATTERN = 4096
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
_RULES = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding")


def read_tokenizer_json(path: Path) -> dict[str, Any]:
    """The content of a ``tokenizer.json``: each token has its own id, and merges are pairs.

    Raises:
        TokenizerError: it is missing or malformed.
    """
    value = parse_json(_bytes(path), str(path), TokenizerError, unique=True)
    try:
        _check(value)
    except ValueError as error:
        raise TokenizerError(f"{path} cannot be loaded: {error}") from None
    spec: dict[str, Any] = value
    return spec


def token_ids(path: Path) -> dict[str, int]:
    """The id of every token in a ``tokenizer.json``."""
    return ids_of(read_tokenizer_json(path))


def ids_of(spec: Mapping[str, Any]) -> dict[str, int]:
    """The id of every token in the content of a ``tokenizer.json``."""
    return {**spec["model"]["vocab"], **{token["content"]: token["id"] for token in spec.get("added_tokens") or []}}


def load_fast_tokenizer(path: Path, checked: bool = False) -> Tokenizer:
    """The ``tokenizers`` object of a checked file; it neither truncates nor pads, as ``transformers`` uses it.

    Args:
        checked: :func:`read_tokenizer_json` has just read it, which takes seconds for a published vocabulary.

    Raises:
        TokenizerError: the file is malformed, or the library refuses it.
    """
    if not checked:
        read_tokenizer_json(path)
    try:
        tokenizer = Tokenizer.from_buffer(_bytes(path))
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic of the Rust library is not an Exception
        raise TokenizerError(f"{path} cannot be loaded ({str(error)[:200]})") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def for_executorch(path: Path, size: int) -> bytes:
    """The file as ExecuTorch's runner must have it to read texts as the ``tokenizers`` library does.

    Each id below ``size`` without a token gets an unused one, since the runner fails on an id that has none: they are
    added tokens, in the order of their ids, because readers number added tokens by what precedes them. And the runner
    looks for added tokens before it replaces spaces, and never makes one by merging: so Gemma's runs of spaces, which
    are added tokens, are written with spaces. A split at spaces, of which there are none left where it belongs, is
    taken out. The original bytes if nothing changes.
    """
    spec = read_tokenizer_json(path)
    added = spec.get("added_tokens") or []
    known = {token["id"] for token in added} | set(spec["model"]["vocab"].values())
    unused = [{"id": i, "content": f"<g3n_unused{i}>", **_PLAIN} for i in range(size) if i not in known]
    replaces = replaces_spaces(spec)
    spaced = [
        {**token, "content": token["content"].replace(SPACE, " ")} if replaces and SPACE in token["content"] else token
        for token in added
    ]
    splits = replaces and splits_at_spaces(spec)
    if not unused and spaced == added and not splits:
        return _bytes(path)
    if splits:
        spec["pre_tokenizer"] = None
    spaces = {old["content"]: new["content"] for old, new in zip(added, spaced, strict=True)}
    vocabulary: dict[str, int] = spec["model"]["vocab"]
    # The library gives an added token a new id if its content is not in the vocabulary.
    spec["model"]["vocab"] = {spaces.get(name, name): index for name, index in vocabulary.items()}
    spec["added_tokens"] = sorted([*spaced, *unused], key=lambda token: token["id"])
    return json.dumps(spec, ensure_ascii=False).encode()


def replaces_spaces(spec: Mapping[str, Any]) -> bool:
    """Whether the normalizer is Gemma's, which writes another character for a space."""
    normalizer = spec.get("normalizer") or {}
    wanted = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    return all(normalizer.get(name) == value for name, value in wanted.items())


def splits_at_spaces(spec: Mapping[str, Any]) -> bool:
    """Whether the pre-tokenizer is Gemma's, which does nothing once spaces are replaced."""
    pre_tokenizer = spec.get("pre_tokenizer") or {}
    return pre_tokenizer.get("type") == "Split" and pre_tokenizer.get("pattern") == {"String": " "}


def _bytes(path: Path) -> bytes:
    return read_bytes(path, MAX_JSON_BYTES, TokenizerError)


def _check(spec: Any) -> None:
    """Raise ``ValueError`` for anything that the library, or code that reads ids and merges, would fail on."""
    model = spec.get("model") if isinstance(spec, dict) else None
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(vocab, dict) or not vocab:
        raise ValueError("it has no model with a vocab of tokens to ids")
    names: dict[int, str] = {}
    for token, number in vocab.items():
        _add(names, token, number, "its vocab")
    for token in _list(spec, "added_tokens"):
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise ValueError("its added_tokens are not objects with a content")
        if not token["content"] or vocab.get(token["content"], token.get("id")) != token.get("id"):
            raise ValueError(f"the added token {token['content'][:60]!r} is empty or has another id in the vocab")
        _add(names, token["content"], token.get("id"), "its added_tokens")
    merges = _list(model, "merges")
    if len(merges) > MAX_MERGES or not all(_is_merge(merge) for merge in merges):
        raise ValueError(f"its merges are not pairs of tokens, at most {MAX_MERGES}")
    if model.get("dropout"):
        raise ValueError("it splits a text differently each time (dropout)")
    rules = {name: spec.get(name) for name in _RULES}
    if len(json.dumps(rules)) > MAX_RULES or _longest_pattern(rules) > MAX_PATTERN:
        raise ValueError(f"its rules have more than {MAX_RULES} bytes, or a pattern of more than {MAX_PATTERN}")


def _add(names: dict[int, str], token: str, number: Any, where: str) -> None:
    if type(number) is not int or not 0 <= number < MAX_VOCABULARY:
        raise ValueError(f"{where} gives {token[:60]!r} an id that is not an integer below {MAX_VOCABULARY}")
    if len(token) > MAX_TOKEN:
        raise ValueError(f"{where} has a token of {len(token)} characters, but at most {MAX_TOKEN} are read")
    if names.setdefault(number, token) != token:
        raise ValueError(f"{where} gives {token[:60]!r} the id {number}, which is {names[number][:60]!r}'s")


def _list(value: Mapping[str, Any], name: str) -> list[Any]:
    found = value.get(name)
    if found is not None and not isinstance(found, list):
        raise ValueError(f"its {name} is not a list")
    return found or []


def _is_merge(merge: Any) -> bool:
    """A pair as a list or, as in older files, as text with a space in between."""
    if type(merge) is str:
        return merge.count(" ") == 1
    return type(merge) is list and len(merge) == 2 and type(merge[0]) is str and type(merge[1]) is str


def _longest_pattern(value: Any) -> int:
    """Characters of the longest text; a pattern is a text under one of several names."""
    if isinstance(value, str):
        return len(value)
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return max((_longest_pattern(child) for child in children), default=0)
