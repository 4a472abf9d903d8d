"""A KV cache for several texts that lie one behind the other in one chunk."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from g3n_compiler.checkpoint.config import TextConfig
from g3n_compiler.modules.cache import attention


class PackedCache:
    """A :class:`~g3n_compiler.modules.decoder.KVCache` for one chunk of texts, none of which sees another.

    Args:
        lengths: tokens of each text.
    """

    def __init__(self, config: TextConfig, lengths: Sequence[int]) -> None:
        self._config, self._lengths, self._asking = config, list(lengths), list(lengths)
        self._keys: dict[int, Sequence[Tensor]] = {}
        self._values: dict[int, Sequence[Tensor]] = {}

    def narrow(self, counts: Sequence[int]) -> None:
        """From now on only the last so many positions of each text ask."""
        self._asking = list(counts)

    def append(self, layer: int, key: Tensor, value: Tensor) -> None:
        self._keys[layer], self._values[layer] = key.split(self._lengths, 1), value.split(self._lengths, 1)

    def attend(self, layer: int, query: Tensor) -> Tensor:
        parts = zip(query.split(self._asking, 1), self._keys[layer], self._values[layer], strict=True)
        return torch.cat([self._attend(layer, *part) for part in parts], 1)

    def _attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        total = key.shape[1]
        at, seen = torch.arange(total - query.shape[1], total).view(-1, 1), torch.arange(total).view(1, -1)
        visible = seen <= at
        if self._config.is_sliding(layer):
            visible &= seen > at - self._config.sliding_window
        return attention(query, key, value, visible)
