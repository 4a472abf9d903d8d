"""What few bits in one weight do to the model's predictions, for each weight alone, a layer at a time.

For each weight there is a run of the model in float32 in which nothing but this weight is rounded. The runs of a
layer's weights begin at that layer, since below it they are the exact run; all of them are then advanced together, so
that each layer is read once and a model of any size needs the memory of one layer and of the runs' streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from g3n_compiler.models.embedding_tables import EmbeddingTables
from g3n_compiler.models.family import Decoder, State
from g3n_compiler.models.packed_cache import PackedCache
from g3n_compiler.models.registry import text_weights
from g3n_compiler.models.weights import Read, Role, WeightSpec, linear_by_rows
from g3n_compiler.quantize.recipe import FP32, INT2, INT4, RECIPES, Recipe, Scheme
from g3n_compiler.quantize.rows import fake_quantize
from g3n_compiler.source import Source

HEAD, TABLE = "lm_head", "embed_tokens_per_layer"
"""The head, together with the embeddings that it is tied to; and all per-layer tables together."""
MATRICES: tuple[Role, ...] = ("attention", "ffn")
"""Roles whose weights have a width each; the small projections are always int8."""
TOKENS = 64
"""Of the texts, from their beginning; with so few the weights can be told apart, as their effects differ by far."""
EVERY = 2
"""Predictions are compared at every second position."""
CHUNK = 256
"""Positions whose logits are in memory at once."""

Progress = Callable[[str], None]


@dataclass
class _Run:
    """The model with nothing rounded but ``name``, after some layers."""

    name: str | None
    state: State
    cache: PackedCache


@torch.no_grad()
def measure_effects(
    source: Source, texts: Sequence[Sequence[int]], progress: Progress, scheme: Scheme = INT4
) -> dict[str, float]:
    """Mean KL divergence in nats, from the exact predictions, if one weight is rounded and all else is float32.

    Args:
        texts: ids of each text; the first :data:`TOKENS` tokens are used.
        scheme: how the weight is rounded.

    Returns:
        The divergence for each matrix of attention and FFN, and unless they have 2 bits for :data:`HEAD` and for
        :data:`TABLE`.
    """
    shape, specs = source.text, text_weights(source.text)
    weights = _OneRounded(source.read, specs, scheme)
    decoder = source.family.decoder(shape, weights)
    ids, lengths = _first(texts)
    at = torch.cat([torch.arange(n) for n in lengths])

    def begin(name: str | None, recipe: Recipe | None = None) -> _Run:
        weights.rounded = None
        tables = EmbeddingTables(shape, source.read, recipe)
        state = decoder.begin(tables.embeddings(ids), tables.ple(ids), at)
        return _Run(name, state, PackedCache(shape, lengths, lengths))

    exact = begin(None)
    runs = [] if scheme == INT2 else [begin(HEAD, _only("embedding", scheme)), begin(TABLE, _only("ple", scheme))]
    for i in range(shape.num_layers):
        own = [name for name, spec in specs.items() if spec.role in MATRICES and name.startswith(f"layers.{i}.")]
        progress(f"layer {i + 1} of {shape.num_layers}: {len(runs) + len(own)} runs")
        runs += [_Run(name, exact.state, exact.cache.copy()) for name in own]
        for run in (exact, *runs):
            weights.rounded = run.name
            run.state = decoder.layer(i, run.state, run.cache)
        weights.release()
    return _divergences(decoder, weights, exact, runs)


def _first(texts: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """The first tokens of the texts, and how many of them are in each text."""
    ids, lengths = list[int](), list[int]()
    for text in texts:
        part = list(text)[: TOKENS - len(ids)]
        if part:
            ids += part
            lengths.append(len(part))
    return ids, lengths


def _only(role: Role, scheme: Scheme) -> Recipe:
    """Only weights of this role are rounded."""
    return replace(RECIPES["fp32"], roles={**RECIPES["fp32"].roles, role: scheme})


def _divergences(decoder: Decoder, weights: _OneRounded, exact: _Run, runs: list[_Run]) -> dict[str, float]:
    weights.rounded = None
    want = torch.log_softmax(next(_logits(decoder, [exact])), -1)
    found = {}
    for rounded in (None, HEAD):  # of all runs, only that of the head has another head
        weights.rounded = rounded
        some = [run for run in runs if (run.name == HEAD) == (rounded == HEAD)]
        for run, logits in zip(some, _logits(decoder, some), strict=True):
            divergence = (want.exp() * (want - torch.log_softmax(logits, -1))).sum(-1, dtype=torch.float64).mean()
            found[run.name or ""] = max(0.0, float(divergence))
    return found


def _logits(decoder: Decoder, runs: Sequence[_Run]) -> Iterator[Tensor]:
    """Logits ``[T, vocab]`` of each run at the compared positions; the head is read once for several of them."""
    parts = [tuple(stream[:, ::EVERY] for stream in run.state.streams) for run in runs]
    together = max(1, CHUNK // parts[0][0].shape[1]) if parts else 1
    for begin in range(0, len(parts), together):
        some = parts[begin : begin + together]
        streams = tuple(torch.cat(stream, 1) for stream in zip(*some, strict=True))
        yield from decoder.logits(streams)[0].split(some[0][0].shape[1])


class _OneRounded:
    """Weights in float32 but for one, kept until they are released."""

    def __init__(self, read: Read, specs: Mapping[str, WeightSpec], scheme: Scheme) -> None:
        self._read, self._specs, self._scheme = read, specs, scheme
        self._kept: dict[tuple[str, bool], Tensor] = {}
        self.rounded: str | None = None

    def tensor(self, name: str) -> Tensor:
        return self._weight(name)

    def linear(self, name: str, x: Tensor) -> Tensor:
        if name == HEAD:
            return linear_by_rows(x, self._specs[name], self._read_head)
        return F.linear(x, self._weight(name))

    def release(self) -> None:
        """Forget the weights of a layer."""
        self._kept.clear()

    def _weight(self, name: str) -> Tensor:
        key = name, name == self.rounded
        if key not in self._kept:
            self._kept[key] = fake_quantize(self._read(self._specs[name]), self._scheme if key[1] else FP32)
        return self._kept[key]

    def _read_head(self, spec: WeightSpec, rows: tuple[int, int] | None = None) -> Tensor:
        return fake_quantize(self._read(spec, rows), self._scheme if self.rounded == HEAD else FP32)
