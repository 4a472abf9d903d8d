"""Text that stands between what must be remembered and the question about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tokenizers import Tokenizer

from nano_training.corpus import EOS, Document


@dataclass(frozen=True)
class Filler:
    """Cuts texts of any length in tokens out of ``documents``."""

    tokenizer: Tokenizer
    documents: Sequence[str]

    @classmethod
    def of(cls, tokenizer: Tokenizer, documents: Sequence[Document]) -> "Filler":
        """From the prose of ``documents`` (those that are no chats)."""
        return cls(tokenizer, [d.text.removesuffix(EOS) for d in documents if d.kind.startswith("plain")])

    def text(self, rng: Random, tokens: int) -> str:
        """Prose of about ``tokens`` tokens, cut where a word ends."""
        ids: list[int] = []
        while len(ids) < tokens:
            ids += self.tokenizer.encode(rng.choice(self.documents), add_special_tokens=False).ids
        cut = str(self.tokenizer.decode(ids[:tokens], skip_special_tokens=False))
        return cut.rsplit(" ", 1)[0] if len(ids) > tokens and " " in cut else cut
