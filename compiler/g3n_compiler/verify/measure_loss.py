"""Measure what a recipe costs: its reference and the checkpoint in float32, side by side over held texts.

All texts go through the decoder together, a layer at a time, so that a model of any size needs the memory of one layer.
Each layer is run four times: as the checkpoint has it, with rewritten weights in float32, rounded on the same inputs
(what this layer alone loses), and rounded on what the rounded layers before it gave.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from g3n_compiler.models.embedding_tables import EmbeddingTables
from g3n_compiler.models.family import Decoder, State, Streams
from g3n_compiler.models.packed_cache import PackedCache
from g3n_compiler.models.registry import text_weights
from g3n_compiler.models.weights import LazyWeights, WeightSpec, linear_by_rows
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.quantize.rows import fake_quantize, fake_quantize_activations
from g3n_compiler.source import Source
from g3n_compiler.verify.checks import position_errors
from g3n_compiler.verify.held import HeldTexts
from g3n_compiler.verify.loss import Loss

CHUNK = 128
"""Positions whose logits are in memory at once."""


@torch.no_grad()
def measure_loss(source: Source, recipe: Recipe, texts: HeldTexts, original: Source | None = None) -> Loss:
    """Run ``texts`` through the checkpoint in float32 and through the reference of ``recipe``.

    Args:
        original: the checkpoint that a calibrated ``source`` was made from.
    """
    runs = _Runs(source, recipe, [ids[:-1] for ids in texts.ids], original)
    layers = {f"layer {i}": runs.layer(i) for i in range(source.text.num_layers)}
    wanted = torch.tensor([i for ids in texts.ids for i in ids[1:]])
    figures = torch.zeros(4, dtype=torch.float64)
    for begin in range(0, len(wanted), CHUNK):
        exact, rounded = runs.logits(slice(begin, begin + CHUNK))
        if begin == 0:
            layers["head"] = relative_rms(runs.head_alone(slice(CHUNK)), exact)
        figures += _figures(exact, rounded, wanted[begin : begin + CHUNK])
    exact_nats, nats, divergence, same = (figures / len(wanted)).tolist()
    return Loss(
        texts=texts.origin,
        texts_sha256=texts.sha256,
        tokens=len(wanted),
        exact_perplexity=math.exp(exact_nats),
        perplexity=math.exp(nats),
        kl_divergence=max(0.0, divergence),
        same_top=same,
        layers=layers,
        matrices=dict(runs.weights.errors),
        rewritten=runs.moved if source.rewrites is not None else None,
    )


def relative_rms(got: Tensor, want: Tensor) -> float:
    """Root mean square of the difference, relative to that of ``want``."""
    return float((got - want).norm(dtype=torch.float64) / want.norm(dtype=torch.float64).clamp(min=1e-30))


def _figures(exact: Tensor, rounded: Tensor, wanted: Tensor) -> Tensor:
    """Sums over positions of logits ``[T, vocab]``: nats of both, divergence, and at how many the best is the same."""
    p, q = torch.log_softmax(exact, -1), torch.log_softmax(rounded, -1)
    at = torch.arange(len(wanted))
    same = (exact.argmax(-1) == rounded.argmax(-1)).sum()
    divergence = (p.exp() * (p - q)).sum(dtype=torch.float64)
    return torch.stack([-p[at, wanted].sum(), -q[at, wanted].sum(), divergence, same]).double()


class _Runs:
    """The runs of all texts, packed into one chunk, layer by layer.

    Args:
        texts: ids of each text.
    """

    def __init__(self, source: Source, recipe: Recipe, texts: list[tuple[int, ...]], original: Source | None) -> None:
        shape, specs = source.text, text_weights(source.text)
        self._changed = original is not None or source.rewrites is not None
        original = original or source.original
        self.weights = _LayerWeights(source, specs, recipe)
        self._decoder: Decoder = source.family.decoder(shape, self.weights)
        self._original: Decoder = source.family.decoder(shape, LazyWeights(original.read, specs))
        ids, lengths = [i for text in texts for i in text], [len(text) for text in texts]
        at = torch.cat([torch.arange(n) for n in lengths])
        self._caches = [PackedCache(shape, lengths, lengths) for _ in range(4)]

        def begin(decoder: Decoder, tables: EmbeddingTables) -> State:
            return decoder.begin(tables.embeddings(ids), tables.ple(ids), at)

        self._plain = begin(self._decoder, EmbeddingTables(shape, source.read))
        self._exact = self._plain
        if self._changed:
            self._exact = begin(self._original, EmbeddingTables(shape, original.read))
        self.weights.rounded = True
        self._rounded = self._alone = begin(self._decoder, EmbeddingTables(shape, source.read, recipe))
        self.weights.release()
        self.moved = _largest_error(self._plain.streams, self._exact.streams)
        """The largest error of a layer's output for which the rewritten weights are to blame."""

    def layer(self, i: int) -> float:
        """Run layer ``i``; returns the error of its output if it alone is rounded."""
        given = self._exact.streams
        self.weights.rounded = False
        self._plain = self._decoder.layer(i, self._plain._replace(streams=given), self._caches[0])
        if self._changed:
            self._exact = self._original.layer(i, self._exact, self._caches[1])
            self.moved = max(self.moved, _largest_error(self._plain.streams, self._exact.streams))
        else:
            self._exact = self._plain
        self.weights.rounded = True
        self._alone = self._decoder.layer(i, self._alone._replace(streams=given), self._caches[2])
        self._rounded = self._decoder.layer(i, self._rounded, self._caches[3])
        self.weights.release()
        return relative_rms(torch.stack([*self._alone.streams]), torch.stack([*self._exact.streams]))

    def logits(self, positions: slice) -> tuple[Tensor, Tensor]:
        """Logits ``[T, vocab]`` of some positions, of the checkpoint in float32 and of the recipe's reference."""
        exact = self._original.logits(_at(self._exact.streams, positions))[0]
        self.weights.rounded = True
        return exact, self._decoder.logits(_at(self._rounded.streams, positions))[0]

    def head_alone(self, positions: slice) -> Tensor:
        """Logits ``[T, vocab]`` of exact streams by the rounded head."""
        self.weights.rounded = True
        return self._decoder.logits(_at(self._exact.streams, positions))[0]


class _LayerWeights:
    """A source's weights, exact or rounded; a layer's rounded matrices are kept from its exact run until released."""

    def __init__(self, source: Source, specs: Mapping[str, WeightSpec], recipe: Recipe) -> None:
        self._read, self._specs, self._recipe = source.read, specs, recipe
        self._kept: dict[str, Tensor] = {}
        self.rounded = False
        self.errors: dict[str, float] = {}
        """Relative error of each matrix's output on exact inputs."""

    def tensor(self, name: str) -> Tensor:
        return self._read(self._specs[name])

    def linear(self, name: str, x: Tensor) -> Tensor:
        spec = self._specs[name]
        if not self.rounded:
            weight = self._read(spec)
            exact = F.linear(x, weight)
            self._kept[name] = fake_quantize(weight, self._recipe.scheme(spec))
            self.errors[name] = relative_rms(self._linear_rounded(spec, x), exact)
            return exact
        return self._linear_rounded(spec, x)

    def release(self) -> None:
        """Forget the rounded matrices."""
        self._kept.clear()

    def _linear_rounded(self, spec: WeightSpec, x: Tensor) -> Tensor:
        if self._recipe.scheme(spec).bits < 32:
            x = fake_quantize_activations(x)
        kept = self._kept.get(spec.name)
        return linear_by_rows(x, spec, self._read_rounded) if kept is None else F.linear(x, kept)

    def _read_rounded(self, spec: WeightSpec, rows: tuple[int, int] | None = None) -> Tensor:
        return fake_quantize(self._read(spec, rows), self._recipe.scheme(spec))


def _at(streams: Streams, positions: slice) -> Streams:
    return tuple(stream[:, positions] for stream in streams)


def _largest_error(got: Streams, want: Streams) -> float:
    """Over every position of every stream ``[1, T, hidden]``."""
    return max(float(position_errors(g[0].numpy(), w[0].numpy()).max()) for g, w in zip(got, want, strict=True))
