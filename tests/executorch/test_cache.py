"""The buffers that are lowered against the growing cache of eager mode, both run by PyTorch."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from g3n_compiler.checkpoint.reader import Checkpoint
from g3n_compiler.lower.executorch.module import ChunkDecoder
from g3n_compiler.verify.reference import Reference
from tests.executorch.conftest import CHUNK, CONTEXT, WINDOW

Make = Callable[[int, int], ChunkDecoder]


def split(length: int, longest: int, seed: int) -> list[int]:
    """``length`` as random chunks of 1 to ``longest``."""
    draw, out = random.Random(seed), []
    while length:
        out.append(min(draw.randint(1, longest), length))
        length -= out[-1]
    return out


@torch.no_grad()
def run(decoder: ChunkDecoder, reference: Reference, ids: list[int], chunks: list[int], start: int = 0) -> Tensor:
    """Logits ``[chunks, vocab]`` after each chunk."""
    out, at = [], start
    for n in chunks:
        part = ids[at : at + n]
        embeddings = reference.tables.embeddings(part).view(n, 1, -1)
        ple = reference.tables.ple(part).reshape(1, n, -1)
        out.append(decoder(embeddings, ple, torch.arange(at, at + n))[0, 0])
        at += n
    return torch.stack(out)


def ends(chunks: list[int]) -> list[int]:
    return [sum(chunks[: i + 1]) - 1 for i in range(len(chunks))]


def close(actual: Tensor, expected: Tensor) -> None:
    assert (actual - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.fixture(scope="module")
def reference(checkpoint: Checkpoint) -> Reference:
    return Reference(checkpoint)


@pytest.mark.parametrize("seed", range(6))
def test_any_chunks_give_the_logits_of_eager_mode(eager: Make, reference: Reference, ids: list[int], seed: int) -> None:
    assert len(ids) > 3 * WINDOW
    chunks = split(len(ids), CHUNK, seed)
    close(run(eager(CONTEXT, CHUNK), reference, ids, chunks), reference.logits(ids)[ends(chunks)])


def test_a_chunk_longer_than_the_window_gets_a_longer_ring(eager: Make, reference: Reference, ids: list[int]) -> None:
    decoder = eager(CONTEXT, WINDOW + 9)
    assert decoder.caches.slots("sliding_attention") == WINDOW + 9
    chunks = [WINDOW + 9, 1, WINDOW + 5, 1, 1]
    close(run(decoder, reference, ids, chunks), reference.logits(ids)[ends(chunks)])


def test_a_context_below_the_window_needs_no_ring(eager: Make, reference: Reference, ids: list[int]) -> None:
    decoder = eager(WINDOW - 4, 5)
    assert decoder.caches.slots("sliding_attention") == WINDOW - 4
    chunks = [5, 1, 5, 1]
    close(run(decoder, reference, ids, chunks), reference.logits(ids)[ends(chunks)])


def test_a_new_text_needs_no_clearing(eager: Make, reference: Reference, ids: list[int]) -> None:
    decoder = eager(CONTEXT, CHUNK)
    run(decoder, reference, ids, split(len(ids), CHUNK, 0))
    chunks = [3, 1, 1]
    close(run(decoder, reference, ids, chunks), reference.logits(ids)[ends(chunks)])


def test_a_position_past_the_context_is_refused(eager: Make, reference: Reference, ids: list[int]) -> None:
    with pytest.raises(IndexError):
        run(eager(8, 4), reference, ids, [4, 4, 1])
