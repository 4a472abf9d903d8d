"""Texts packed into one chunk give what each gives alone."""

from __future__ import annotations

import torch

from g3n_compiler.models.packed_cache import PackedCache
from g3n_compiler.verify.reference import Reference
from tests.conftest import TinyModel

LENGTHS = (40, 1, 23)


def test_no_text_sees_another(tiny: TinyModel) -> None:
    source = tiny.open()
    reference = Reference(source)
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(1, 4000, (n,), generator=generator).tolist() for n in LENGTHS]
    alone = torch.cat([reference.logits(ids) for ids in texts])
    tables = reference.tables
    embeddings = torch.cat([tables.embeddings(ids) for ids in texts], 1)
    ple = torch.cat([tables.ple(ids) for ids in texts], 1)
    positions = torch.cat([torch.arange(n) for n in LENGTHS])
    with torch.no_grad():
        packed = reference.decoder.decode(embeddings, ple, positions, PackedCache(source.text, LENGTHS, LENGTHS))[0]
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-4)


def test_the_last_positions_ask_alone(tiny: TinyModel) -> None:
    config = tiny.open().text
    torch.manual_seed(0)
    total, asking = sum(LENGTHS), (3, 1, 5)
    key, value = (torch.randn(1, total, config.num_kv_heads, config.head_dim) for _ in range(2))
    query = torch.randn(1, total, config.num_heads, config.head_dim)
    cache = PackedCache(config, LENGTHS, asking)
    cache.append(0, key, value)
    whole = cache.attend(0, query).split(LENGTHS, 1)
    tails = [part[:, -n:] for part, n in zip(query.split(LENGTHS, 1), asking, strict=True)]
    narrowed = cache.attend(0, torch.cat(tails, 1))
    expected = torch.cat([part[:, -n:] for part, n in zip(whole, asking, strict=True)], 1)
    torch.testing.assert_close(narrowed, expected)
