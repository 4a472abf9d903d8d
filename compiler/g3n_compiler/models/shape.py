"""The shape of a decoder, as far as every stage of a compile may use it, for any family."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Literal, Self

LayerType = Literal["sliding_attention", "full_attention"]


@dataclass(frozen=True, kw_only=True)
class TextShape:
    """Shape of a decoder with per-layer embeddings and shared KV caches.

    A family's own configuration is a subclass with more fields. Per-layer fields have one entry for each of
    ``num_layers`` layers.
    """

    family: str
    """Name of the family in :data:`g3n_compiler.models.registry.FAMILIES`."""
    hidden_size: int
    num_layers: int
    ffn_dims: tuple[int, ...]
    layer_types: tuple[LayerType, ...]
    num_kv_shared_layers: int
    sliding_window: int
    vocab_size: int
    ple_vocab_size: int
    ple_dim: int
    max_context: int
    bos_id: int
    pad_id: int
    eos_ids: tuple[int, ...]
    ffn_blocks: tuple[tuple[int, ...], ...] = ()
    """Widths of the blocks in which each layer's FFN is computed and quantised; empty if no FFN is divided."""
    ple_groups: tuple[tuple[int, ...], ...] = ()
    """Layers whose rows of the per-layer table are quantised together; empty if all are."""

    @property
    def whole(self) -> Self:
        """The same shape, not divided for nested sizes."""
        return replace(self, ffn_blocks=(), ple_groups=())

    def blocks(self, layer: int) -> tuple[int, ...]:
        """Widths of the blocks of a layer's FFN."""
        return self.ffn_blocks[layer] if self.ffn_blocks else (self.ffn_dims[layer],)

    @property
    def num_kv_layers(self) -> int:
        """Layers that own a KV cache: the first ``num_layers - num_kv_shared_layers``."""
        return self.num_layers - self.num_kv_shared_layers

    def kv_owner(self, layer: int) -> int:
        """The layer whose keys and values ``layer`` attends to: itself, or the last owner with its attention type."""
        if layer < self.num_kv_layers:
            return layer
        kind = self.layer_types[layer]
        return max(i for i in range(self.num_kv_layers) if self.layer_types[i] == kind)

    def is_sliding(self, layer: int) -> bool:
        return self.layer_types[layer] == "sliding_attention"

    def cache_length(self, layer: int, context: int) -> int:
        """Positions in the KV cache of an owning ``layer``: the window on sliding layers, otherwise the context."""
        return min(self.sliding_window, context) if self.is_sliding(layer) else context

    @abstractmethod
    def kv_width(self, layer: int) -> int:
        """Numbers in the key, or the value, of one position in owning ``layer``: KV heads times head size."""

    @abstractmethod
    def kept(self, layers: tuple[int, ...], ffn_dims: tuple[int, ...]) -> Self:
        """The shape with only some layers, ascending, and these FFN widths; every per-layer field is rebuilt."""
