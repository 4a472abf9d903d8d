"""KV caches for LiteRT-LM's signatures: tensors that go in and come out; ring buffers on sliding layers.

The engine owns the caches and passes them to every call, so a cache here is a function of its inputs. A sliding layer
keeps ``R = min(window, context)`` positions: position ``p`` is in slot ``p mod R``. A full layer keeps the whole
context, with position ``p`` in slot ``p``.

A prompt chunk is padded to its signature's length. The engine gives padded tokens position 0. Their keys and values are
never written to a cache: in a ring they would displace tokens that are still in the window, and in a full cache a chunk
that reaches past the context would be shifted over older tokens. No constant here depends on the length of a full
cache: LiteRT-LM may shorten it when it loads the graph, see :mod:`g3n_compiler.lower.litert.context`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from g3n_compiler.models.gemma3n.text_config import TextConfig

MASKED = -1e9
"""Added to the score of a masked position. It is finite, so that a padded row does not become NaN."""
BLOCK = 256
"""Prompt tokens that attend together on sliding layers; longer blocks would score keys outside every window."""


class CacheOps(Protocol):
    """The operations that export writes as TFLite operators, and everything else as plain PyTorch."""

    def update(self, cache: Tensor, chunk: Tensor, start: Tensor, axis: int) -> Tensor:
        """``cache`` with ``chunk`` written at index ``start [1]`` int32 of ``axis``."""

    def gather(self, x: Tensor, index: Tensor, axis: int) -> Tensor:
        """Elements ``index [N]`` int32 of ``axis``."""

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        """``a [1, B, M, K] @ b [1, B, K, N] -> [1, B, M, N]``."""

    def matmul_transposed(self, a: Tensor, b: Tensor) -> Tensor:
        """``a [1, B, M, K] @ b [1, B, N, K].T -> [1, B, M, N]``."""


class TorchOps:
    """Plain PyTorch, for eager execution and for exporters without TFLite operators."""

    def update(self, cache: Tensor, chunk: Tensor, start: Tensor, axis: int) -> Tensor:
        return cache.index_copy(axis, start + torch.arange(chunk.shape[axis]), chunk)

    def gather(self, x: Tensor, index: Tensor, axis: int) -> Tensor:
        return x.index_select(axis, index)

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b

    def matmul_transposed(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b.transpose(-1, -2)


def kv_cache_shapes(config: TextConfig, context: int) -> dict[str, tuple[int, int, int, int]]:
    """Shapes of the caches of the owning layers: ``k_i [1, KV, S, H]`` and ``v_i [1, KV, H, S]``."""
    shapes: dict[str, tuple[int, int, int, int]] = {}
    for i in range(config.num_kv_layers):
        length = config.cache_length(i, context)
        shapes[f"k_{i}"] = (1, config.num_kv_heads, length, config.head_dim)
        shapes[f"v_{i}"] = (1, config.num_kv_heads, config.head_dim, length)
    return shapes


class _Layer(NamedTuple):
    """One owner's caches after this chunk, and the keys and values that this chunk attends to."""

    k_out: Tensor
    v_out: Tensor
    keys: Tensor
    """``[1, KV, S, H]``."""
    values: Tensor
    """``[1, KV, H, S]``, or ``[1, KV, S, H]`` on sliding layers in prefill."""


class _Block(NamedTuple):
    """Queries ``rows`` of a chunk attend to keys ``columns`` of ring and chunk, as ``mask`` allows."""

    rows: slice
    columns: slice
    mask: Tensor
    """``[1, 1, groups * len(rows), len(columns)]``, added to the scores."""


class ExternalCache:
    """What decode and prefill share. Use :class:`DecodeCache` or :class:`PrefillCache`.

    Args:
        inputs: caches by name, as :func:`kv_cache_shapes` gives them, float32.
        positions: ``[T]`` int32, padded with zeros after the chunk's tokens.
        mask: ``[1, 1, T, context]`` float32 of the full layers: 0 for visible positions, very low elsewhere.
    """

    def __init__(
        self, config: TextConfig, inputs: Mapping[str, Tensor], positions: Tensor, mask: Tensor, ops: CacheOps
    ) -> None:
        self.config = config
        self.ops = ops
        self.start = positions[0:1]
        self._inputs = inputs
        self._layers: dict[int, _Layer] = {}
        self._full_mask = self._repeat(torch.maximum(mask, torch.full((1, 1, 1, 1), MASKED)))

    def append(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Add this chunk's ``key`` and ``value`` ``[1, T, KV, H]`` to owning ``layer``."""
        key, value = key.permute(0, 2, 1, 3), value.permute(0, 2, 1, 3)
        old = self._inputs[f"k_{layer}"], self._inputs[f"v_{layer}"]
        write = self._append_sliding if self.config.is_sliding(layer) else self._append_full
        self._layers[layer] = write(*old, key, value)

    def attend(self, layer: int, query: Tensor) -> Tensor:
        """Attention of ``query [1, T, heads, H]`` over owning ``layer`` -> ``[1, T, heads * H]``."""
        entry = self._layers[layer]
        if self.config.is_sliding(layer):
            return self._attend_sliding(entry, query)
        return self._attend(query, entry.keys, entry.values, self._full_mask)

    def outputs(self) -> dict[str, Tensor]:
        """The caches after this chunk, by the names of the signature's outputs."""
        out: dict[str, Tensor] = {}
        for i in range(self.config.num_kv_layers):
            out[f"kv_cache_k_{i}"] = self._layers[i].k_out
            out[f"kv_cache_v_{i}"] = self._layers[i].v_out
        return out

    def _append_full(self, k_old: Tensor, v_old: Tensor, key: Tensor, value: Tensor) -> _Layer:
        raise NotImplementedError

    def _append_sliding(self, k_old: Tensor, v_old: Tensor, key: Tensor, value: Tensor) -> _Layer:
        raise NotImplementedError

    def _attend_sliding(self, entry: _Layer, query: Tensor) -> Tensor:
        raise NotImplementedError

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, by_position: bool = False) -> Tensor:
        """Grouped attention with scale 1.0. The heads of a group become adjacent rows, so that keys and values are not
        repeated.

        ``values`` are ``[1, KV, H, S]`` as in a cache, or ``[1, KV, S, H]`` with ``by_position``.
        """
        t, heads, dim = query.shape[1:]
        q = query.permute(0, 2, 1, 3).reshape(1, self.config.num_kv_heads, -1, dim)
        weights = torch.softmax(self.ops.matmul_transposed(q, keys) + mask, -1)
        out = self.ops.matmul(weights, values) if by_position else self.ops.matmul_transposed(weights, values)
        return out.reshape(1, heads, t, dim).permute(0, 2, 1, 3).reshape(1, t, heads * dim)

    def _repeat(self, mask: Tensor) -> Tensor:
        """The rows of a mask ``[1, 1, T, S]``, once for each head of a group (a single row is broadcast instead)."""
        groups = self.config.num_heads // self.config.num_kv_heads
        return mask if mask.shape[2] == 1 else torch.cat([mask] * groups, 2)

    def _ring(self) -> tuple[int, Tensor]:
        """Ring length ``R`` and its slots ``[R]`` int32."""
        owners = range(self.config.num_kv_layers)
        length = next(self._inputs[f"k_{i}"].shape[2] for i in owners if self.config.is_sliding(i))
        return length, torch.arange(length, dtype=torch.int32)


class DecodeCache(ExternalCache):
    """One token: written first, then attends to the cache."""

    def __init__(
        self, config: TextConfig, inputs: Mapping[str, Tensor], positions: Tensor, mask: Tensor, ops: CacheOps
    ) -> None:
        super().__init__(config, inputs, positions, mask, ops)
        if "sliding_attention" in config.layer_types:
            length, slots = self._ring()
            self._slot = torch.remainder(self.start, length)
            self._ring_mask = _additive(slots <= self.start).view(1, 1, 1, length)

    def _append_full(self, k_old: Tensor, v_old: Tensor, key: Tensor, value: Tensor) -> _Layer:
        return self._write(self.start, k_old, v_old, key, value)

    def _append_sliding(self, k_old: Tensor, v_old: Tensor, key: Tensor, value: Tensor) -> _Layer:
        return self._write(self._slot, k_old, v_old, key, value)

    def _attend_sliding(self, entry: _Layer, query: Tensor) -> Tensor:
        return self._attend(query, entry.keys, entry.values, self._ring_mask)

    def _write(self, slot: Tensor, k_old: Tensor, v_old: Tensor, key: Tensor, value: Tensor) -> _Layer:
        k = self.ops.update(k_old, key, slot, 2)
        v = self.ops.update(v_old, value.transpose(-1, -2), slot, 3)
        return _Layer(k, v, k, v)


class PrefillCache(ExternalCache):
    """A chunk of prompt of any length; sliding layers attend to ring and chunk side by side, block by block."""

    def __init__(
        self, config: TextConfig, inputs: Mapping[str, Tensor], positions: Tensor, mask: Tensor, ops: CacheOps
    ) -> None:
        super().__init__(config, inputs, positions, mask, ops)
        self._chunk = torch.arange(positions.shape[0], dtype=torch.int32)
        self._last = torch.amax(positions, 0, keepdim=True)
        if "sliding_attention" in config.layer_types:
            self._prepare_ring(positions)
        if "full_attention" in config.layer_types:
            self._prepare_full()

    def _prepare_ring(self, positions: Tensor) -> None:
        length, slots = self._ring()
        t = positions.shape[0]
        held = self.start - 1 - torch.remainder(self.start - 1 - slots, length)
        seen = (held >= 0) & (held > positions.view(t, 1) - length)
        distance = self._chunk.view(t, 1) - self._chunk
        mask = torch.cat((_additive(seen), _additive((distance >= 0) & (distance < length))), 1)
        self._blocks: list[_Block] = []
        for first in range(0, t, BLOCK):
            end = min(first + BLOCK, t)
            # Queries a window or more into the chunk see nothing of the ring; others keep all of its unordered slots.
            low = 0 if first < length else first
            columns = slice(low, length + end)
            block = mask[first:end, columns].view(1, 1, end - first, -1)
            self._blocks.append(_Block(slice(first, end), columns, self._repeat(block)))
        newest = self._last - torch.remainder(self._last - slots, length)
        self._ring_source = torch.where(newest >= self.start, newest - self.start + length, slots)

    def _prepare_full(self) -> None:
        t = self._chunk.shape[0]
        # The t slots that end with the chunk's last token: they lie within the cache whatever its length, which
        # LiteRT-LM may change when it loads the graph. Slots before the chunk's first token keep what they hold.
        first = self._last - (t - 1)
        self._write_at = first - torch.minimum(first, torch.zeros((1,), dtype=torch.int32))
        self._write_slots = self._write_at + self._chunk
        fresh = (self._write_slots >= self.start) & (self._write_slots <= self._last)
        self._full_source = torch.where(fresh, self._write_slots - self.start + t, self._chunk)

    def _append_full(self, k_old: Tensor, v_old: Tensor, key: Tensor, value: Tensor) -> _Layer:
        k = self._merge(k_old, key, 2)
        v = self._merge(v_old, value.transpose(-1, -2), 3)
        return _Layer(k, v, k, v)

    def _merge(self, old: Tensor, chunk: Tensor, axis: int) -> Tensor:
        """``old`` with the chunk's own tokens, but not its padding, written to their slots."""
        there = self.ops.gather(old, self._write_slots, axis)
        merged = self.ops.gather(torch.cat((there, chunk), axis), self._full_source, axis)
        return self.ops.update(old, merged, self._write_at, axis)

    def _append_sliding(self, k_old: Tensor, v_old: Tensor, key: Tensor, value: Tensor) -> _Layer:
        keys = torch.cat((k_old, key), 2)
        values = torch.cat((v_old.transpose(-1, -2), value), 2)
        k = self.ops.gather(keys, self._ring_source, 2)
        v = self.ops.gather(values, self._ring_source, 2).transpose(-1, -2)
        return _Layer(k, v, keys, values)

    def _attend_sliding(self, entry: _Layer, query: Tensor) -> Tensor:
        parts = [
            self._attend(query[:, b.rows], entry.keys[:, :, b.columns], entry.values[:, :, b.columns], b.mask, True)
            for b in self._blocks
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _additive(visible: Tensor) -> Tensor:
    """0 where ``visible``, else :data:`MASKED`."""
    return torch.where(visible, torch.zeros((), dtype=torch.float32), torch.full((), MASKED))
