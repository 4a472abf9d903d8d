"""Hold an artifact against the reference layer by layer, each layer on the artifact's own inputs.

Over a whole model rounding adds up, and on random weights it is amplified until even two right implementations share
little. Over one layer it stays small, so the limit can be tight and a fault is named by its layer.

Some layers answer a last bit of difference with more than the limit: an activation falls on the other side of a
rounding step, and a sharp attention turns that into another weighting. Such a layer is held against the reference's own
answer to inputs that differ by :data:`JITTER`. A fault moves every position, or one further than that.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from g3n_compiler.lower.opened import LayeredModel
from g3n_compiler.models.eager_cache import EagerCache
from g3n_compiler.models.family import Decoder, State
from g3n_compiler.models.shape import TextShape
from g3n_compiler.verify.checks import position_errors
from g3n_compiler.verify.reference import Reference

JITTER = 1e-6
"""Relative difference of inputs that two right implementations in float32 may have."""
DRAWS = 4
"""How often the reference is jittered at most: the worst of a few positions is chance."""
REACH = 2.0
"""How much further than the jittered reference a layer may be off."""
TYPICAL = 0.5
"""Share of the limit that half of a sensitive layer's positions must keep."""


@dataclass(frozen=True)
class LayerError:
    """Relative error of one layer (or ``head``) over its positions, and what the reference itself moves by.

    ``own`` is ``None`` where ``worst`` is within the limit, so that nobody had to ask.
    """

    name: str
    worst: float
    median: float
    own: float | None = None


@dataclass(frozen=True)
class LayerErrors:
    """The errors of all layers and of the head; ``logits [T, vocab]`` as the layers made them."""

    parts: tuple[LayerError, ...]
    logits: np.ndarray

    @property
    def steady(self) -> LayerError:
        """The worst of those that the plain limit is for."""
        steady = [part for part in self.parts if part.own is None]
        return max(steady, key=lambda part: part.worst, default=LayerError("none", 0.0, 0.0))

    @property
    def sensitive(self) -> list[LayerError]:
        """Those over the plain limit."""
        return [part for part in self.parts if part.own is not None]

    @property
    def worst(self) -> float:
        return max(part.worst for part in self.parts)


@torch.no_grad()
def layer_errors(
    reference: Reference,
    model: LayeredModel,
    ids: Sequence[int],
    prompt: int,
    limit: float = np.inf,
    only: Collection[int] | None = None,
) -> LayerErrors:
    """Run ``ids`` through ``model``, the first ``prompt`` of them as a prompt.

    Both start from the model's own rows: a last bit of difference there could turn a rounding further on.

    Args:
        limit: a layer that is off by more is run again on jittered inputs.
        only: the layers to compare, by default all. The last owner of a KV cache, and those whose caches one of them
            reads, must be among them.
    """
    embeddings, ple = model.embeddings(ids), model.ple(ids)
    decoder, config = reference.decoder, reference.config
    state = decoder.begin(torch.from_numpy(embeddings)[None], torch.from_numpy(ple)[None], torch.arange(len(ids)))
    cache = EagerCache(config)
    decoded = prompt - 1
    parts: list[LayerError] = []
    produced = model.run(embeddings, ple, prompt)
    for layer in range(config.num_layers):
        streams = next(produced)
        if only is not None and layer not in only:
            state = state._replace(streams=_streams(streams))
            continue
        before = cache.copy()
        expected = _layer(decoder, layer, state, cache, config, decoded)
        wanted = _rows(expected)
        errors = position_errors(_flat(streams), wanted)
        own = None
        if limit < errors.max() < np.inf:
            own = 0.0
            for draw in range(DRAWS):
                moved = _layer(decoder, layer, _jittered(decoder, layer, state, draw), before.copy(), config, decoded)
                own = max(own, float(position_errors(_rows(moved), wanted).max()))
                if errors.max() <= REACH * own:
                    break
        parts.append(LayerError(f"layer {layer}", float(errors.max()), float(np.median(errors)), own))
        if not np.isfinite(parts[-1].worst):
            return LayerErrors(tuple(parts), np.full((len(ids) - decoded, config.vocab_size), np.nan))
        state = expected._replace(streams=_streams(streams))
    logits = next(produced)
    errors = position_errors(logits, decoder.logits(state.streams)[0].numpy())
    parts.append(LayerError("head", float(errors.max()), float(np.median(errors))))
    return LayerErrors(tuple(parts), logits)


def _flat(streams: np.ndarray) -> np.ndarray:
    return streams.reshape(-1, streams.shape[-1])


def _streams(produced: np.ndarray) -> tuple[Tensor, ...]:
    """Streams ``[1, T, hidden]`` of what a layer gave, ``[T, n, hidden]``."""
    return tuple(torch.from_numpy(produced[None, :, a]) for a in range(produced.shape[1]))


def _rows(state: State) -> np.ndarray:
    return _flat(torch.cat(state.streams).transpose(0, 1).numpy())


def _jittered(decoder: Decoder, layer: int, state: State, draw: int) -> State:
    """``state`` with everything that ``layer`` reads multiplied by ``1 + JITTER * normal``."""
    generator = torch.Generator().manual_seed(draw)

    def move(x: Tensor) -> Tensor:
        return x * (1 + JITTER * torch.randn(x.shape, generator=generator))

    embeddings = move(state.embeddings)
    # What comes before the first layer is compared as a part of it.
    if layer == 0:
        streams = decoder.begin(embeddings, state.ple, torch.arange(embeddings.shape[1])).streams
    else:
        streams = tuple(move(s) for s in state.streams)
    return state._replace(streams=streams, embeddings=embeddings, ple=move(state.ple))


def _layer(decoder: Decoder, i: int, state: State, cache: EagerCache, shape: TextShape, decoded: int) -> State:
    """The reference's layer ``i``; from the last owner of keys and values on, only tokens from ``decoded`` on."""
    return decoder.layer(i, state, cache, slice(decoded, None) if i == shape.num_kv_layers - 1 else None)
