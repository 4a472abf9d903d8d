"""Held texts: what the loss of rounding is measured on. Nothing was trained or calibrated with them.

The user's own are in a file with one JSON object per line, as ``g3n-calibrate`` takes it, but without media:

    {"text": "Plain text, not a chat."}
    {"prompt": "What is a river?", "answer": "A large natural stream of water."}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from g3n_compiler.checkpoint.embedded import comes_from_nano
from g3n_compiler.checkpoint.tokenizer import LoadedTokenizer, TextTokenizer
from g3n_compiler.errors import ExampleError
from g3n_compiler.nano import heldout_path
from g3n_compiler.source import Source
from g3n_runtime.reading import parse_json, read_text

MAX_BYTES = 16 << 20
"""For the user's file."""
MAX_LINE_CHARACTERS = 1 << 20
"""Of a text: a tokenizer takes 200 bytes of memory for each, and seconds for a million."""
OWN_TOKENS, NANO_TOKENS = 256, 1024
"""Of our own texts, and of nano's: a larger model takes a second or more for each layer."""
MOST_TOKENS = 4096
"""Of the user's texts; the rest is not read."""
SHORTEST = 8
"""Tokens of a text that is cut to fit."""


@dataclass(frozen=True)
class HeldTexts:
    """Token ids, bos first, each as long as the model's context at most."""

    origin: str
    """Where they are from, for people."""
    sha256: str
    """Of the file that they are from."""
    ids: tuple[tuple[int, ...], ...]

    @property
    def predicted(self) -> int:
        """Tokens that the model predicts: all but each text's bos."""
        return sum(len(ids) - 1 for ids in self.ids)


def read_held_texts(path: Path, tokenizer: TextTokenizer, longest: int) -> HeldTexts:
    """The texts in the user's file.

    Args:
        longest: tokens of one text at most, the model's context.

    Raises:
        ExampleError: the file is missing, too large or holds no texts, or a line is not one; the message says which.
    """
    text = read_text(path, MAX_BYTES, ExampleError)
    return _held(text, path.name, path.name, tokenizer, longest, MOST_TOKENS)


def own_held_texts(source: Source, tokenizer: TextTokenizer) -> HeldTexts:
    """The texts in this package; nano has its own, as it knows few words."""
    if comes_from_nano(source.checkpoint):
        text, origin, most = heldout_path().read_text(encoding="utf-8"), "nano's held-out documents", NANO_TOKENS
    else:
        text = files("g3n_compiler.verify").joinpath("held_texts.jsonl").read_text(encoding="utf-8")
        origin, most = "the texts that come with g3n", OWN_TOKENS
    return _held(text, "held texts", origin, tokenizer, source.text.max_context, most)


def _held(text: str, file: str, origin: str, tokenizer: TextTokenizer, longest: int, most: int) -> HeldTexts:
    found, left = list[tuple[int, ...]](), most
    for ids in _texts(text, file, tokenizer.loaded(), tokenizer.turn_end):
        ids = ids[: min(longest, left + 1)]
        if len(ids) >= (2 if left == most else SHORTEST):
            found.append(tuple(ids))
            left -= len(ids) - 1
        if left < SHORTEST:
            break
    if not found:
        raise ExampleError(f"{file} holds no texts: expected one JSON object per line, such as {{'text': ...}}")
    return HeldTexts(origin, hashlib.sha256(text.encode()).hexdigest(), tuple(found))


def _texts(text: str, file: str, tokenizer: LoadedTokenizer, turn_end: int | None) -> Iterator[list[int]]:
    for number, line in enumerate(text.split("\n"), 1):  # a JSON string may contain other line separators
        if not line.strip():
            continue
        if len(line) > MAX_LINE_CHARACTERS:
            raise ExampleError(
                f"{file}, line {number} has {len(line):,} characters, at most {MAX_LINE_CHARACTERS:,} are read: give a "
                "long text as several"
            )
        raw = parse_json(line, f"{file}, line {number}", ExampleError)
        if not isinstance(raw, dict) or not all(isinstance(value, str) for value in raw.values()):
            raise ExampleError(f"{file}, line {number}: expected a JSON object of strings, without media")
        yield _ids(raw, f"{file}, line {number}", tokenizer, turn_end)


def _ids(raw: dict[str, Any], where: str, tokenizer: LoadedTokenizer, turn_end: int | None) -> list[int]:
    if raw.keys() - {"kind"} == {"text"}:
        return [tokenizer.bos_id, *tokenizer.encode(raw["text"])]
    if raw.keys() == {"prompt", "answer"}:
        end = [] if turn_end is None else [turn_end]
        return [*tokenizer.chat(raw["prompt"]), *tokenizer.encode(raw["answer"]), *end]
    raise ExampleError(f"{where}: expected a text, or a prompt and an answer, found {json.dumps(sorted(raw))[:80]}")
