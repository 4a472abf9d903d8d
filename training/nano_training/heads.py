"""Cheap classifiers on soft tokens, for training only: towers learn from them before any text is generated."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nano_training.pictures import COLOURS, SHAPES
from nano_training.voices import WORDS

_COLOUR_NAMES = sorted(COLOURS)
_PARTS = (10, len(COLOURS), len(SHAPES), len(COLOURS))
_IGNORED = -100

_EACH = 0.3
"""Weight of what single soft tokens tell about a picture, compared with what all of them tell together."""


def caption_classes(caption: str) -> list[int]:
    """Digit, colour, shape and paper colour as class numbers; -100 for what the picture lacks."""
    if caption.isdigit():
        return [int(caption), _IGNORED, _IGNORED, _IGNORED]
    _, colour, shape, _, paper = caption.rstrip(".").split()
    return [_IGNORED, _COLOUR_NAMES.index(colour), SHAPES.index(shape), _COLOUR_NAMES.index(paper)]


TOWERS = {"look": "vision_tower", "classes": "vision_tower", "words": "audio_tower"}
"""The tower whose soft tokens each part of :class:`Heads` reads."""


class Heads(nn.Module):
    """Both towers' classifiers over soft tokens of ``width``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.look = nn.Linear(width, 1)
        self.classes = nn.Linear(width, sum(_PARTS))
        self.words = nn.Linear(width, len(WORDS) + 1)

    def picture_loss(self, soft: Tensor, captions: Sequence[str]) -> tuple[Tensor, float]:
        """Mean cross entropy of what ``soft`` (B, N, D) shows, and the share of completely correct pictures.

        One part of it asks each soft token by itself: if every token knows the answer, the text model need not search
        for it.
        """
        wanted = torch.tensor([caption_classes(caption) for caption in captions])
        each = self.classes(soft)
        pooled = (self.look(soft).softmax(1) * each).sum(1)
        losses, right = [], torch.ones(len(captions), dtype=torch.bool)
        for column, (logits, alone) in enumerate(zip(pooled.split(_PARTS, 1), each.split(_PARTS, 2), strict=True)):
            target = wanted[:, column]
            if (target != _IGNORED).any():
                losses.append(F.cross_entropy(logits, target, ignore_index=_IGNORED))
                by_token = target[:, None].expand(alone.shape[:2])
                losses.append(_EACH * F.cross_entropy(alone.transpose(1, 2), by_token, ignore_index=_IGNORED))
            right &= (logits.argmax(1) == target) | (target == _IGNORED)
        return torch.stack(losses).sum(), right.float().mean().item()

    def speech_loss(self, soft: Tensor, sounding: Tensor, words: Sequence[tuple[str, ...]]) -> tuple[Tensor, float]:
        """CTC loss of ``soft`` (B, N, D), and the share of utterances whose best path is completely correct."""
        log_probabilities = self.words(soft).log_softmax(-1)
        numbers = [[WORDS.index(word) + 1 for word in said] for said in words]
        lengths = sounding.sum(1)
        if all(len(said) == 1 for said in numbers):
            return self._word_loss(soft, sounding, torch.tensor(numbers)[:, 0])
        loss = F.ctc_loss(
            log_probabilities.transpose(0, 1),
            torch.tensor([n for said in numbers for n in said]),
            lengths,
            torch.tensor([len(said) for said in numbers]),
            zero_infinity=True,
        )
        best = log_probabilities.argmax(-1)
        right = 0
        for row, said in enumerate(numbers):
            path = torch.unique_consecutive(best[row, : int(lengths[row])]).tolist()
            right += [n for n in path if n] == said
        return loss, right / len(words)

    def transcribe(self, soft: Tensor) -> list[str]:
        """The words of the most likely path through ``soft`` (N, D), without repetitions and blanks."""
        path = torch.unique_consecutive(self.words(soft).argmax(-1)).tolist()
        return [WORDS[n - 1] for n in path if n]

    def _word_loss(self, soft: Tensor, sounding: Tensor, wanted: Tensor) -> tuple[Tensor, float]:
        """Loss for single words, which need no alignment: cross entropy of the highest score of each word at any
        moment.
        """
        logits = self.words(soft)[..., 1:].masked_fill(~sounding[..., None], -torch.inf).logsumexp(1)
        return F.cross_entropy(logits, wanted - 1), (logits.argmax(1) == wanted - 1).float().mean().item()
