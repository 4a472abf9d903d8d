"""A KV cache for several texts, concatenated in one chunk."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from g3n_compiler.models.eager_cache import attention
from g3n_compiler.models.shape import TextShape


class PackedCache:
    """A :class:`~g3n_compiler.models.family.KVCache` for one chunk of texts that do not attend to each other.

    Args:
        lengths: the number of tokens in each text.
        last: for each text, how many of its last positions attend if not all of them do.
    """

    def __init__(self, config: TextShape, lengths: Sequence[int], last: Sequence[int]) -> None:
        self._config, self._lengths, self._last = config, list(lengths), list(last)
        self._keys: dict[int, Sequence[Tensor]] = {}
        self._values: dict[int, Sequence[Tensor]] = {}

    def copy(self) -> PackedCache:
        """A cache with the same keys and values, to go on from here."""
        other = PackedCache(self._config, self._lengths, self._last)
        other._keys, other._values = dict(self._keys), dict(self._values)
        return other

    def append(self, layer: int, key: Tensor, value: Tensor) -> None:
        self._keys[layer], self._values[layer] = key.split(self._lengths, 1), value.split(self._lengths, 1)

    def attend(self, layer: int, query: Tensor) -> Tensor:
        asking = self._lengths if query.shape[1] == sum(self._lengths) else self._last
        parts = zip(query.split(asking, 1), self._keys[layer], self._values[layer], strict=True)
        return torch.cat([self._attend(layer, *part) for part in parts], 1)

    def _attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        total = key.shape[1]
        at, seen = torch.arange(total - query.shape[1], total).view(-1, 1), torch.arange(total).view(1, -1)
        visible = seen <= at
        if self._config.is_sliding(layer):
            visible &= seen > at - self._config.sliding_window
        return attention(query, key, value, visible)
