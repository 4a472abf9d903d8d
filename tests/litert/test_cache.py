"""The external caches against the growing eager one, over chunks of every kind."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from g3n_compiler.lower.signatures.cache import DecodeCache, PrefillCache, TorchOps, kv_cache_shapes
from g3n_compiler.models.eager_cache import EagerCache
from g3n_compiler.models.gemma3n.text_config import TextConfig
from tests.conftest import TinyModel

KV, HEADS, DIM = 2, 4, 8


def config_of(tiny: TinyModel, window: int) -> TextConfig:
    """One sliding and one full owner."""
    with_types = dataclasses.replace(
        tiny.open().text, num_layers=2, num_kv_shared_layers=0, layer_types=("sliding_attention", "full_attention")
    )
    return dataclasses.replace(with_types, sliding_window=window, head_dim=DIM)


def run_external(config: TextConfig, context: int, chunks: list[int], length: int, data: Tensor) -> Tensor:
    """Attention of both layers at every position, chunk by chunk, each padded to ``length`` with rubbish."""
    generator = torch.Generator().manual_seed(2)
    caches = {n: torch.randn(s, generator=generator) * 50 for n, s in kv_cache_shapes(config, context).items()}
    out, position = [], 0
    for count in chunks:
        rows = 1 if count == 1 else length
        padded = torch.randn((2, rows, HEADS + 2 * KV, DIM), generator=generator) * 50
        padded[:, :count] = data[:, position : position + count]
        positions = torch.zeros(rows, dtype=torch.int32)
        positions[:count] = torch.arange(position, position + count)
        mask = torch.full((1, 1, rows, context), -2e38)
        for i in range(count):
            mask[0, 0, i, : position + i + 1] = 0
        kind = DecodeCache if rows == 1 else PrefillCache
        cache = kind(config, caches, positions, mask, TorchOps())
        out.append(torch.stack([attend(cache, i, padded[i]) for i in range(2)])[:, 0, :count])
        caches = {name.removeprefix("kv_cache_"): value for name, value in cache.outputs().items()}
        position += count
    return torch.cat(out, 1)


def run_eager(config: TextConfig, data: Tensor) -> Tensor:
    cache = EagerCache(config)
    return torch.stack([attend(cache, i, data[i]) for i in range(2)])[:, 0]


def attend(cache: EagerCache | DecodeCache | PrefillCache, layer: int, rows: Tensor) -> Tensor:
    query, key, value = rows.unsqueeze(0).split([HEADS, KV, KV], 2)
    cache.append(layer, key, value)
    return cache.attend(layer, query)


@pytest.mark.parametrize(
    ("window", "context", "length", "chunks"),
    [
        (16, 96, 24, [24, 24, 5, 1, 1, 20, 1, 1]),  # chunks longer than the window, padded and full
        (16, 96, 16, [16, 15, 16, 1, 2, 1]),  # as long as the window
        (16, 96, 8, [8, 3, 1, 8, 8, 7, 1, 2]),  # shorter
        (7, 96, 24, [23, 24, 1, 24]),  # a window that is no power of two
        (16, 96, 40, [40, 30, 1, 24, 1]),  # padding that reaches past the context
        (16, 96, 96, [95, 1]),  # one chunk for all
        (200, 96, 24, [24, 5, 1, 24, 23, 1]),  # a window longer than the context
        (16, 600, 580, [579, 1]),  # several blocks, most of which see nothing of the ring
        (300, 600, 580, [20, 560, 1]),  # blocks that see ring and chunk
    ],
)
def test_equals_the_eager_cache(tiny: TinyModel, window: int, context: int, length: int, chunks: list[int]) -> None:
    config = config_of(tiny, window)
    total = sum(chunks)
    data = torch.randn((2, total, HEADS + 2 * KV, DIM), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        run_external(config, context, chunks, length, data), run_eager(config, data), rtol=1e-4, atol=1e-4
    )


def test_a_ring_holds_the_window_and_a_full_cache_the_context(tiny: TinyModel) -> None:
    shapes = kv_cache_shapes(config_of(tiny, 16), 96)
    assert shapes == {
        "k_0": (1, KV, 16, DIM),
        "v_0": (1, KV, DIM, 16),
        "k_1": (1, KV, 96, DIM),
        "v_1": (1, KV, DIM, 96),
    }


def test_padding_is_written_to_no_cache(tiny: TinyModel) -> None:
    config, context = config_of(tiny, 16), 96
    caches = {n: torch.zeros(s) for n, s in kv_cache_shapes(config, context).items()}
    positions = torch.tensor([0, 1, 2, 0, 0, 0], dtype=torch.int32)
    cache = PrefillCache(config, caches, positions, torch.zeros(1, 1, 6, context), TorchOps())
    for layer in range(2):
        attend(cache, layer, torch.ones(6, HEADS + 2 * KV, DIM))
    for name, value in cache.outputs().items():
        positions_axis = 2 if "_k_" in name else 3
        written = value.amax(tuple(a for a in range(4) if a != positions_axis))
        assert written.tolist() == [1.0] * 3 + [0.0] * (value.shape[positions_axis] - 3), name
