"""KV caches as mutable buffers; a chunk is written into them before anything attends to it.

What a slot holds follows from the chunk's last position alone, so nothing needs clearing when a conversation starts
again at 0. Of a full layer's buffers, only the part up to the last position is read, rounded up to multiples of
:data:`STEP`: a short conversation costs the same whatever the context.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.models.shape import LayerType

MASKED = -1e9
"""Added to the scores of masked positions; softmax gives them exactly 0."""
STEP = 256
"""Slots by which the part of a full layer that is read grows; each new number makes XNNPACK plan a layer again."""
Slots = int | torch.SymInt


class CacheBuffers(nn.Module):
    """Buffers ``key_i [kv_heads, head_dim, slots]`` (transposed, because XNNPACK has no transposed product) and
    ``value_i [kv_heads, slots, head_dim]`` for each KV-owning layer i.

    Full layers have a slot for each position of the context, rounded up to whole steps. Sliding layers are rings:
    position p is in slot ``p % slots``. A ring holds a window and a chunk, because the chunk is written before its
    first token has attended to its whole window.

    Args:
        context: positions in all.
        chunk: the most tokens in one call.
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
        if kind == "full_attention":
            return full_slots(self.context)
        return min(self.config.sliding_window + self.chunk - 1, self.context)

    def write(self, layer: int, positions: Tensor, key: Tensor, value: Tensor) -> None:
        """Write a chunk at ``positions [T]`` into owning ``layer``'s buffers."""
        kind = self.config.layer_types[layer]
        index = positions if kind == "full_attention" else torch.remainder(positions, self.slots(kind))
        torch.ops.aten.index_put_(self.get_buffer(f"key_{layer}"), [None, None, index], key)
        torch.ops.aten.index_put_(self.get_buffer(f"value_{layer}"), [None, index], value)

    def reached(self, last: Tensor) -> Slots:
        """Slots of a full layer that are in use when ``last [1]`` is the newest position."""
        if self.context <= STEP:
            return self.slots("full_attention")
        newest: Slots = last.item()  # type: ignore[assignment]  # of an integer tensor
        torch._check(newest >= 0)
        torch._check(newest < self.context)
        return (newest // STEP + 1) * STEP

    def read(self, layer: int, reached: Slots) -> tuple[Tensor, Tensor]:
        """Owning ``layer``'s keys and values; only the first ``reached`` slots of a full layer."""
        key, value = self.get_buffer(f"key_{layer}"), self.get_buffer(f"value_{layer}")
        if self.config.layer_types[layer] != "full_attention" or self.context <= STEP:
            return key, value
        return key[:, :, :reached], value[:, :reached]

    def mask(self, kind: LayerType, last: Tensor, at: Tensor, reached: Slots) -> Tensor:
        """Additive mask ``[1, groups * queries, slots]`` of a layer of ``kind`` for queries at positions ``at``.

        Args:
            last: ``[1]``, the newest position written.
            reached: slots of a full layer that are read.
        """
        config, slots = self.config, reached if kind == "full_attention" else self.slots(kind)
        slot, at = torch.arange(slots).view(1, -1), at.view(-1, 1)
        if kind == "full_attention":
            visible = slot <= at
        else:
            # The newest position that this slot holds; negative if there is none.
            # Shifted by one period, because ExecuTorch's remainder of a negative number is negative.
            held = last - torch.remainder(last - slot + slots, slots)
            visible = (held >= 0) & (held <= at) & (held > at - config.sliding_window)
        mask = torch.where(visible, 0.0, MASKED)
        return torch.cat([mask] * (config.num_heads // config.num_kv_heads), 0).unsqueeze(0)


def full_slots(context: int) -> int:
    """Slots of a full layer's buffers."""
    return context if context <= STEP else -(-context // STEP) * STEP
