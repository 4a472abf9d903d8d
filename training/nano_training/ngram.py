"""Interpolated modified Kneser-Ney n-gram model over token ids: the baseline that a network has to beat."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nano_training.tokenizer import BOS_ID, VOCAB_SIZE

ORDER = 4
_BITS = 13  # four ids below 2**13 fit one int64
_Keys = NDArray[np.int64]
_Floats = NDArray[np.float64]


def _histories(documents: Sequence[Tensor], order: int) -> _Keys:
    """(tokens, order) windows ending at each token except a document's first; before it, the history is ``<bos>``."""
    windows: list[_Keys] = []
    for document in documents:
        ids = np.concatenate([np.full(order - 2, BOS_ID), document.numpy()]).astype(np.int64)
        windows.append(np.lib.stride_tricks.sliding_window_view(ids, order))
    return np.concatenate(windows)


def _pack(columns: _Keys) -> _Keys:
    """(n, k) ids as n keys with the last id lowest, so that a key shifted right by ``_BITS`` is its context's key."""
    keys = np.zeros(len(columns), np.int64)
    for column in columns.T:
        keys = (keys << _BITS) | column
    return keys


def _find(keys: _Keys, wanted: _Keys) -> tuple[_Keys, NDArray[np.bool_]]:
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return at, keys[at] == wanted


class _Level:
    """Counts of one order: n-grams and, per context, the total and how many words follow once, twice, or more often."""

    def __init__(self, keys: _Keys, counts: _Keys) -> None:
        self.keys, self.counts = keys, counts
        ones, twos, threes, fours = (max(1, int((counts == n).sum())) for n in (1, 2, 3, 4))
        y = ones / (ones + 2 * twos)
        found = [0.0, 1 - 2 * y * twos / ones, 2 - 3 * y * threes / twos, 3 - 4 * y * fours / threes]
        self.discounts = np.clip(found, 0.0, [0.0, 1.0, 2.0, 3.0])  # tiny samples can give impossible estimates
        context = keys >> _BITS
        self.contexts, start = np.unique(context, return_index=True)
        self.totals = np.add.reduceat(counts, start)
        self.held_back = np.add.reduceat(self.discounts[np.minimum(counts, 3)], start)

    def probability(self, wanted: _Keys, lower: _Floats) -> _Floats:
        """P(last id | ids before) for packed n-grams, where ``lower`` is the probability one order down."""
        at, known = _find(self.contexts, wanted >> _BITS)
        total = np.where(known, self.totals[at], 1)
        weight = np.where(known, self.held_back[at] / total, 1.0)
        place, seen = _find(self.keys, wanted)
        count = np.where(seen, self.counts[place], 0)
        kept = (count - self.discounts[np.minimum(count, 3)]) / total
        return np.where(known & seen, kept, 0.0) + weight * lower


class KneserNey:
    """Trained on documents of token ids, each starting with ``<bos>``."""

    def __init__(self, documents: Sequence[Tensor], order: int = ORDER) -> None:
        if not 1 < order <= 63 // _BITS:
            raise ValueError(f"order {order}: {_BITS}-bit ids allow 2 to {63 // _BITS}")
        self.order = order
        keys, counts = np.unique(_pack(_histories(documents, order)), return_counts=True)
        self._levels = [_Level(keys, counts.astype(np.int64))]
        for length in range(order - 1, 0, -1):
            # lower orders count in how many contexts an n-gram was seen, not how often
            keys, counts = np.unique(keys & ((1 << (_BITS * length)) - 1), return_counts=True)
            self._levels.append(_Level(keys, counts.astype(np.int64)))

    def perplexity(self, documents: Sequence[Tensor]) -> float:
        """Perplexity per token, with ``<bos>`` not counted."""
        windows = _pack(_histories(documents, self.order))
        probability = np.full(len(windows), 1 / VOCAB_SIZE)
        for length, level in enumerate(reversed(self._levels), start=1):
            probability = level.probability(windows & ((1 << (_BITS * length)) - 1), probability)
        return float(np.exp(-np.log(probability).mean()))
