"""The buffers that are lowered against the growing cache of eager mode, both run by PyTorch."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from g3n_compiler.lower.executorch.cache import STEP, CacheBuffers
from g3n_compiler.lower.executorch.methods import ChunkDecoder
from g3n_compiler.models.shape import LayerType
from g3n_compiler.source import Source
from g3n_compiler.verify.checks import EXACT, relative_error
from g3n_compiler.verify.reference import Reference
from tests.conftest import ids_of
from tests.executorch.conftest import CHUNK, CONTEXT, LONG, WINDOW, eager_pieces

Make = Callable[[int, int], ChunkDecoder]


@pytest.fixture(scope="module")
def make(source: Source) -> Make:
    """The module that is lowered, in fp32, for a context and a chunk."""
    pieces = eager_pieces(source, "fp32")
    return lambda context, chunk: ChunkDecoder(source.text, pieces, context, chunk).eval()


@pytest.fixture(scope="module")
def reference(source: Source) -> Reference:
    return Reference(source)


def split(length: int, longest: int, seed: int) -> list[int]:
    """``length`` as random chunks of 1 to ``longest``."""
    draw, out = random.Random(seed), []
    while length:
        out.append(min(draw.randint(1, longest), length))
        length -= out[-1]
    return out


@torch.no_grad()
def check(decoder: ChunkDecoder, reference: Reference, ids: list[int], chunks: list[int]) -> None:
    """The logits after each chunk are those of eager mode at its last position."""
    expected, at = reference.logits(ids), 0
    out: list[Tensor] = []
    for n in chunks:
        part, positions = ids[at : at + n], torch.arange(at, at + n)
        embeddings = reference.tables.embeddings(part).view(n, 1, -1)
        out.append(decoder(embeddings, reference.tables.ple(part).reshape(1, n, -1), positions)[0])
        at += n
        assert relative_error(out[-1].numpy(), expected[at - 1 : at].numpy()) < EXACT, f"after position {at - 1}"


@pytest.mark.parametrize("seed", range(6))
def test_chunks_of_any_size(make: Make, reference: Reference, seed: int) -> None:
    ids = ids_of(4 * WINDOW, reference.config.vocab_size)
    check(make(CONTEXT, CHUNK), reference, ids, split(len(ids), CHUNK, seed))


def test_a_chunk_may_be_longer_than_the_window(make: Make, reference: Reference) -> None:
    decoder = make(CONTEXT, WINDOW + 9)
    assert decoder.caches.slots("sliding_attention") == WINDOW + WINDOW + 8
    chunks = [WINDOW + 9, 1, WINDOW + 5, 1, WINDOW + 9]
    check(decoder, reference, ids_of(sum(chunks), reference.config.vocab_size), chunks)


@pytest.mark.parametrize("kind", ["sliding_attention", "full_attention"])
@pytest.mark.parametrize("context", [CONTEXT, LONG])
@pytest.mark.parametrize("lengths", [[1] * 60, [CHUNK] * 5, [3, CHUNK, 1, CHUNK, 7, CHUNK, 11]])
def test_each_query_sees_its_positions_alone(kind: LayerType, lengths: list[int], context: int, source: Source) -> None:
    """The masks against a list of what was really written last into each slot."""
    caches = CacheBuffers(source.text, context, CHUNK)
    held, at = torch.full((caches.slots(kind),), -1), 0
    for n in lengths:
        positions = torch.arange(at, at + n)
        held[positions % len(held)] = positions
        last = positions[-1:]
        seen = caches.mask(kind, last, positions, caches.reached(last))[0, :n] == 0
        for position, row in zip(positions.tolist(), seen, strict=True):
            first = max(0, position - WINDOW + 1) if kind == "sliding_attention" else 0
            assert sorted(held[: len(row)][row].tolist()) == list(range(first, position + 1))
        at += n


def test_a_context_below_the_window_needs_no_ring(make: Make, reference: Reference) -> None:
    decoder = make(WINDOW - 4, 5)
    assert decoder.caches.slots("sliding_attention") == WINDOW - 4
    check(decoder, reference, ids_of(12, reference.config.vocab_size), [5, 1, 5, 1])


def test_a_new_text_needs_no_clearing(make: Make, reference: Reference) -> None:
    decoder = make(CONTEXT, CHUNK)
    ids = ids_of(CONTEXT, reference.config.vocab_size)
    check(decoder, reference, ids, split(CONTEXT, CHUNK, 0))
    check(decoder, reference, ids[::-1], [3, 1, 1, CHUNK])


def test_what_has_not_been_reached_is_not_read(make: Make, reference: Reference) -> None:
    decoder = make(LONG, CHUNK)
    layer = reference.config.layer_types.index("full_attention")
    for name, axis in ((f"key_{layer}", 2), (f"value_{layer}", 1)):
        buffer = decoder.caches.get_buffer(name)
        assert buffer.shape[axis] == 2 * STEP
        buffer.narrow(axis, STEP, STEP).fill_(torch.nan)
    ids = ids_of(STEP + 1, reference.config.vocab_size)
    check(decoder, reference, ids[:STEP], [CHUNK] * (STEP // CHUNK) + [STEP % CHUNK])
    with pytest.raises(AssertionError, match=f"after position {STEP}"):
        check(decoder, reference, ids, [1] * len(ids))


def test_a_position_past_the_context_is_refused(make: Make, reference: Reference) -> None:
    with pytest.raises(IndexError):
        check(make(8, 4), reference, ids_of(9, reference.config.vocab_size), [4, 4, 1])
