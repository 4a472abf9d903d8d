"""What a ``tokenizer.json`` must be for a SentencePiece model to read every text as it does, beside the vocabulary.

SentencePiece merges the adjacent pair whose union has the best score, whichever pair it is; the ``tokenizers`` library
merges the pairs that the file lists, in that order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from g3n_compiler.checkpoint.tokenizer_json import replaces_spaces, splits_at_spaces
from g3n_compiler.errors import UnsupportedTokenizer


def require(path: Path, holds: bool, what: str) -> None:
    if not holds:
        raise UnsupportedTokenizer(
            f"{path}: cannot become a SentencePiece model: {what}. "
            "It must be of Gemma's kind: BPE with byte fallback over unsplit text"
        )


def check_rules(path: Path, spec: Mapping[str, Any]) -> None:
    """Raise :class:`UnsupportedTokenizer` for rules that no SentencePiece model has, whoever made it."""
    model = spec["model"]
    require(path, model.get("type") == "BPE", f"its model is {model.get('type')!r}, not 'BPE'")
    for name in ("ignore_merges", "continuing_subword_prefix", "end_of_word_suffix"):
        require(path, not model.get(name), f"it has {name}")
    require(path, replaces_spaces(spec), "its normalizer is not the replacement of ' ' by '▁'")
    require(
        path,
        spec.get("pre_tokenizer") is None or splits_at_spaces(spec),
        "its pre-tokenizer splits the text before merging",
    )
    if (two := _unlisted_merge(spec)) is not None:
        require(path, False, f"its merges leave out {two[0]!r} and {two[1]!r}, whose union is a token")


def _unlisted_merge(spec: Mapping[str, Any]) -> tuple[str, str] | None:
    """Two tokens whose union is one too, though no merge makes it: SentencePiece merges every such pair."""
    vocab, added = spec["model"]["vocab"], {token["content"] for token in spec.get("added_tokens") or []}
    plain = vocab.keys() - added
    listed = {tuple(pair(merge)) for merge in spec["model"].get("merges") or []}
    for token in plain:
        for at in range(1, len(token)):
            if token[:at] in plain and token[at:] in plain and (token[:at], token[at:]) not in listed:
                return token[:at], token[at:]
    return None


def pair(merge: Any) -> list[str]:
    return merge if isinstance(merge, list) else merge.split(" ")


def out_of_order(spec: Mapping[str, Any], scores: Mapping[str, float]) -> str | None:
    """A token that SentencePiece prefers to one whose merge comes earlier; scores must fall along the merges.

    Args:
        scores: of each plain piece.
    """
    last = math.inf
    for merge in spec["model"]["merges"]:
        union = "".join(pair(merge))
        score = scores.get(union, last)
        if score > last:
            return union
        last = score
    return None
