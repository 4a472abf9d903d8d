"""KV caches for eager execution: the reference for every backend's own cache."""

from __future__ import annotations

import torch
from torch import Tensor

from g3n_compiler.models.shape import TextShape


def attention(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """Grouped-query attention, scale 1.0.

    Args:
        query: ``[1, T, heads, head_dim]``.
        key, value: ``[1, S, kv_heads, head_dim]``.
        visible: ``[T, S]`` bool.

    Returns:
        ``[1, T, heads * head_dim]``.
    """
    t, heads, dim = query.shape[1:]
    groups = heads // key.shape[2]
    q = query.permute(0, 2, 1, 3).view(1, key.shape[2], groups, t, dim)
    scores = q @ key.permute(0, 2, 3, 1).unsqueeze(2)
    scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    out = torch.softmax(scores, -1) @ value.permute(0, 2, 1, 3).unsqueeze(2)
    return out.reshape(1, heads, t, dim).permute(0, 2, 1, 3).reshape(1, t, heads * dim)


class EagerCache:
    """Grows with the text; sliding layers keep only the window before the current chunk."""

    def __init__(self, config: TextShape) -> None:
        self.config = config
        self.length = 0
        self._chunk = 0
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}

    def append(self, layer: int, key: Tensor, value: Tensor) -> None:
        self._chunk = key.shape[1]
        if layer in self._keys:
            key = torch.cat((self._keys[layer], key), 1)
            value = torch.cat((self._values[layer], value), 1)
        if self.config.is_sliding(layer):
            keep = self._chunk + self.config.sliding_window - 1
            key, value = key[:, -keep:], value[:, -keep:]
        self._keys[layer], self._values[layer] = key, value

    def attend(self, layer: int, query: Tensor) -> Tensor:
        key, value = self._keys[layer], self._values[layer]
        total = self.length + self._chunk
        at = torch.arange(total - query.shape[1], total).view(-1, 1)
        seen = torch.arange(total - key.shape[1], total).view(1, -1)
        visible = seen <= at
        if self.config.is_sliding(layer):
            visible &= seen > at - self.config.sliding_window
        return attention(query, key, value, visible)

    def copy(self) -> EagerCache:
        """A cache with the same past that then grows independently."""
        other = EagerCache(self.config)
        other.length, other._chunk = self.length, self._chunk
        other._keys, other._values = dict(self._keys), dict(self._values)
        return other

    def advance(self) -> None:
        """Call this after each chunk, to move its tokens into the past."""
        self.length += self._chunk
        self._chunk = 0
