"""KV caches as mutable buffers, laid out and masked so that all attention of a chunk is one delegated graph.

Attention runs over the cache as it was before the chunk, joined with the chunk's own keys and values; the chunk is
written into the cache after everything else. So no write stands between two delegated operators. What a slot holds
follows from the chunk's first position alone, so nothing needs clearing when a conversation starts again at 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from g3n_compiler.checkpoint.config import LayerType, TextConfig

MASKED = -1e9
"""Added to the scores of unseen positions; softmax gives them exactly 0."""


class CacheBuffers(nn.Module):
    """Buffers ``key_i [kv_heads, head_dim, slots]`` (transposed: XNNPACK has no transposed product) and
    ``value_i [kv_heads, slots, head_dim]`` for each KV-owning layer i.

    Full layers have a slot for each position of the context. Sliding layers are rings: position p is in slot
    ``p % slots``.

    Args:
        context: positions in all.
        chunk: most tokens of one call.
    """

    def __init__(self, config: TextConfig, context: int, chunk: int) -> None:
        super().__init__()
        self.config = config
        self.context = context
        self.chunk = chunk
        for i in range(config.num_kv_layers):
            slots = self.slots(config.layer_types[i])
            self.register_buffer(f"key_{i}", torch.zeros(config.num_kv_heads, config.head_dim, slots))
            self.register_buffer(f"value_{i}", torch.zeros(config.num_kv_heads, slots, config.head_dim))

    def slots(self, kind: LayerType) -> int:
        """A chunk longer than the window needs a longer ring: it must not write a slot twice."""
        if kind == "full_attention":
            return self.context
        return min(max(self.config.sliding_window, self.chunk), self.context)

    def key(self, layer: int) -> Tensor:
        return self.get_buffer(f"key_{layer}")

    def value(self, layer: int) -> Tensor:
        return self.get_buffer(f"value_{layer}")


class ChunkCache:
    """:class:`~g3n_compiler.modules.decoder.KVCache` for one chunk over :class:`CacheBuffers`.

    Args:
        positions: ``[T]`` int64, consecutive.
    """

    def __init__(self, buffers: CacheBuffers, positions: Tensor) -> None:
        self.buffers = buffers
        self.positions = positions
        self._chunk: dict[int, tuple[Tensor, Tensor]] = {}
        self._joined: dict[int, tuple[Tensor, Tensor]] = {}
        self._masks = {kind: self._mask(kind, positions) for kind in dict.fromkeys(buffers.config.layer_types)}

    def append(self, layer: int, key: Tensor, value: Tensor) -> None:
        heads, dim = key.shape[2:]
        key = torch.permute_copy(key, (0, 2, 3, 1)).view(heads, dim, -1)
        value = torch.permute_copy(value, (0, 2, 1, 3)).view(heads, -1, dim)
        self._chunk[layer] = key, value
        self._joined[layer] = (
            torch.cat((self.buffers.key(layer), key), 2),
            torch.cat((self.buffers.value(layer), value), 1),
        )

    def attend(self, layer: int, query: Tensor) -> Tensor:
        """``query [1, T, heads, head_dim]`` -> ``[T, 1, heads * head_dim]``."""
        heads, dim = query.shape[2:]
        key, value = self._joined[layer]
        # The heads of a group lie below each other, so that one product serves them all.
        query = torch.permute_copy(query, (0, 2, 1, 3)).view(key.shape[0], -1, dim)
        scores = torch.bmm(query, key) + self._masks[self.buffers.config.layer_types[layer]]
        out = torch.bmm(torch.softmax(scores, -1), value).view(heads, -1, dim)
        return torch.permute_copy(out, (1, 0, 2)).view(-1, 1, heads * dim)

    def narrow(self) -> None:
        """From here on queries are the chunk's last token alone."""
        self._masks = {kind: self._mask(kind, self.positions[-1:]) for kind in self._masks}

    def write(self) -> None:
        """Put the chunk into the buffers."""
        for layer, (key, value) in self._chunk.items():
            slots = self.buffers.slots(self.buffers.config.layer_types[layer])
            index = torch.remainder(self.positions, slots) if slots < self.buffers.context else self.positions
            torch.ops.aten.index_put_(self.buffers.key(layer), [None, None, index], key)
            torch.ops.aten.index_put_(self.buffers.value(layer), [None, index], value)

    def _mask(self, kind: LayerType, at: Tensor) -> Tensor:
        """Additive mask ``[1, groups * queries, slots + T]`` for queries at positions ``at``."""
        config, slots = self.buffers.config, self.buffers.slots(kind)
        start, slot = self.positions[:1], torch.arange(slots)
        if kind == "full_attention":
            held = torch.where(slot < start, slot, -1)
        else:
            # The newest position before the chunk that this slot stands for; negative when there is none.
            # Shifted by one turn, because ExecuTorch's remainder of a negative number is negative.
            held = start - 1 - torch.remainder(start - 1 - slot + slots, slots)
        seen, at = torch.cat((held, self.positions)).view(1, -1), at.view(-1, 1)
        visible = (seen >= 0) & (seen <= at)
        if kind == "sliding_attention":
            visible = visible & (seen > at - config.sliding_window)
        mask = torch.where(visible, 0.0, MASKED)
        return torch.cat([mask] * (config.num_heads // config.num_kv_heads), 0).unsqueeze(0)
