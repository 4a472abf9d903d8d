"""The words that tasks are made of: what training uses, and what only held-out examples use."""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Literal

from tokenizers import Tokenizer

from g3n_compiler.nano import checkpoint_dir
from nano_training.tokenizer import SPACE

Split = Literal["train", "heldout"]

NAMES = (
    "Ann", "Ben", "Dan", "Eva", "Gus", "Hal", "Ida", "Jim", "Kim", "Leo", "Mary", "Ned", "Ola", "Paul", "Ruth", "Sam",
    "Tom", "Una", "Will", "Zoe", "Adam", "Seth", "Noah", "Sarah",
)  # fmt: skip
CITIES = (
    "Rome", "Paris", "Oslo", "Bonn", "Cairo", "Lima", "Delhi", "Kyoto", "Quito", "Riga", "Turin", "Accra", "Milan",
    "Basel", "Dover", "Genoa",
)  # fmt: skip
"""Closed lists: a name is spelled with other tokens after a quotation mark than after a space, so nano must learn each
of them. What is held out are combinations, not names.
"""

_HELDOUT_PERCENT = 10
_ONE_TOKEN, _TWO_TOKENS = "words_of_one_token.txt", "words_of_two_tokens.txt"
"""Nouns and adjectives of WordNet that are one or two tokens of nano's vocabulary after a space, without those that the
tasks' own sentences use.
"""
_SHARE_OF_ONE, _SHARE_OF_INVENTED = 0.35, 0.3


def held_out(*parts: object) -> bool:
    """Whether what ``parts`` name is never shown in training (10% of everything)."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < _HELDOUT_PERCENT


@dataclass(frozen=True)
class Words:
    """The words and numbers of one ``split``."""

    split: Split

    @cached_property
    def pools(self) -> tuple[tuple[str, ...], ...]:
        """Words of one and of two tokens.

        Only words of two tokens are held out. A token that no task ever shows cannot be copied: its per-layer embedding
        has not learnt to tell it apart. So training also invents words, of all tokens that can begin and end one.
        """
        one, two = ((Path(__file__).with_name(name)).read_text("utf-8").split() for name in (_ONE_TOKEN, _TWO_TOKENS))
        if self.split == "heldout":
            return (tuple(word for word in two if held_out(word)),)
        return tuple(one), tuple(word for word in two if not held_out(word))

    @cached_property
    def parts(self) -> tuple[list[str], list[str]]:
        """What tokens write that can begin a word, and that can end one."""
        tokens = Tokenizer.from_file(str(checkpoint_dir() / "tokenizer.json")).get_vocab()
        begins = sorted(token[1:] for token in tokens if re.fullmatch(rf"{SPACE}[a-z]{{2,}}", token))
        return begins, sorted(token for token in tokens if re.fullmatch("[a-z]{2,}", token))

    @cached_property
    def secret(self) -> frozenset[str]:
        """Words that only held-out examples use."""
        return frozenset(Words("heldout").pools[0])

    def some(self, rng: Random, count: int) -> list[str]:
        """``count`` different words."""
        found: dict[str, None] = {}
        while len(found) < count:
            found[self._one(rng)] = None
        return list(found)

    def _one(self, rng: Random) -> str:
        if self.split == "heldout":
            return rng.choice(self.pools[0])
        if rng.random() < _SHARE_OF_INVENTED:
            begins, ends = self.parts
            invented = rng.choice(begins) + (rng.choice(ends) if rng.random() < 0.7 else "")
            return invented if invented not in self.secret else self._one(rng)
        return rng.choice(self.pools[0 if rng.random() < _SHARE_OF_ONE else 1])

    def number(self, rng: Random, low: int = 10, high: int = 99) -> int:
        return rng.randint(low, high)

    def mine(self, rng: Random, *pools: tuple[str, ...]) -> list[str]:
        """One of each pool; the combination belongs to this split."""
        while True:
            chosen = [rng.choice(pool) for pool in pools]
            if held_out(*chosen) == (self.split == "heldout"):
                return chosen

    def length(self, rng: Random, low: int, high: int, kept: int) -> int:
        """A length from ``low`` to ``high``; ``kept`` is one that training never sees."""
        while True:
            length = rng.randint(low, high)
            if self.split == "heldout" or length != kept:
                return length
