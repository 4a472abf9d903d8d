"""Examples as token ids, the positions that are learnt, and rows that hold several of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor

from g3n_compiler.nano.tasks import Example
from nano_training import tokenizer as ids
from nano_training.senses import SOFT_TOKENS, Modality

_MODALITY: dict[str, Modality] = {"digit": "image", "scene": "image", "speech": "audio"}
_BLOCKS: dict[Modality, str] = {
    "image": "<start_of_image>" + "<image_soft_token>" * SOFT_TOKENS["image"] + "<end_of_image>",
    "audio": "<start_of_audio>" + "<audio_soft_token>" * SOFT_TOKENS["audio"] + "<end_of_audio>",
}
PLACEHOLDERS = (ids.VISION_ID + 1, ids.AUDIO_ID + 1)


@dataclass(frozen=True)
class Encoded:
    """``tokens`` with ``<bos>``; ``learnt[i]`` says whether the token at ``i`` is the model's own."""

    example: Example
    tokens: list[int]
    learnt: list[bool]
    spans: list[tuple[int, int]]
    """Where each answer begins and ends."""

    @property
    def answers(self) -> int:
        return sum(self.learnt)


def encode(example: Example, tokenizer: Tokenizer, rng: Random | None = None) -> Encoded:
    """The example as the library's processor prepares it; with ``rng``, newlines around pictures and sounds vary, since
    engines differ in them.
    """
    spaced = rng is None or rng.random() < 0.8
    gap = "\n\n" if spaced else ""
    blocks = "".join(f"{gap}{_BLOCKS[_MODALITY[kind]]}{gap}" for kind, _ in example.media)
    tokens, learnt, spans = [ids.BOS_ID], [False], []
    for i, (text, own) in enumerate(example.pieces()):
        if i == 0 and blocks:
            text = text.replace("<start_of_turn>user\n", f"<start_of_turn>user\n{blocks}", 1)
        found = tokenizer.encode(text, add_special_tokens=False).ids
        if own:
            spans.append((len(tokens), len(tokens) + len(found)))
        tokens += found
        learnt += [own] * len(found)
    return Encoded(example, tokens, learnt, spans)


@dataclass(frozen=True)
class Rows:
    """Several examples side by side, and one below the other.

    ``tokens`` (B, T); ``belongs`` (B, T), the number of the example that a token is part of, -1 for padding; ``places``
    (B, S), the positions that predict something that is learnt; ``targets`` (B, S), -100 where a place is unused.
    """

    tokens: Tensor
    belongs: Tensor
    places: Tensor
    targets: Tensor
    examples: list[list[Encoded]]

    @property
    def visible(self) -> Tensor:
        """(B, T, T): only tokens of the same example."""
        return self.belongs[:, :, None] == self.belongs[:, None, :]


class RowFiller:
    """One row of ``length`` tokens with at most ``slots`` learnt positions."""

    def __init__(self, length: int, slots: int) -> None:
        self.examples: list[Encoded] = []
        self._room, self._slots = length, slots

    def add(self, encoded: Encoded) -> bool:
        """Whether there was room for it."""
        if len(encoded.tokens) > self._room or encoded.answers > self._slots:
            return False
        self._room -= len(encoded.tokens)
        self._slots -= encoded.answers
        self.examples.append(encoded)
        return True


def stack(rows: Sequence[Sequence[Encoded]], length: int, slots: int) -> Rows:
    """The examples of each row as tensors."""
    tokens = torch.full((len(rows), length), ids.PAD_ID)
    belongs = torch.full((len(rows), length), -1)
    places = torch.zeros((len(rows), slots), dtype=torch.long)
    targets = torch.full((len(rows), slots), -100)
    for r, row in enumerate(rows):
        at, slot = 0, 0
        for number, encoded in enumerate(row):
            end = at + len(encoded.tokens)
            tokens[r, at:end] = torch.tensor(encoded.tokens)
            belongs[r, at:end] = number
            for i, own in enumerate(encoded.learnt):
                if own:
                    places[r, slot], targets[r, slot] = at + i - 1, encoded.tokens[i]
                    slot += 1
            at = end
    return Rows(tokens, belongs, places, targets, [list(row) for row in rows])
