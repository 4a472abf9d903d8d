"""Hold an artifact against the reference layer by layer, each layer on the artifact's own inputs.

Over a whole model rounding adds up, and on random weights it is amplified until even two right implementations share
little. Over one layer it stays small, so the limit can be tight and a fault is named by its layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from g3n_compiler.lower.backend import LayeredModel
from g3n_compiler.modules.cache import EagerCache
from g3n_compiler.modules.decoder import State, TextDecoder
from g3n_compiler.verify.parity import relative_error
from g3n_compiler.verify.reference import Reference


@dataclass(frozen=True)
class LayerErrors:
    """Largest relative error of each layer, and of the head; ``logits [T, vocab]`` as the layers made them."""

    layers: tuple[float, ...]
    head: float
    logits: np.ndarray

    @property
    def worst(self) -> float:
        return max(*self.layers, self.head)

    @property
    def where(self) -> str:
        """Name of the worst."""
        layer = int(np.argmax(self.layers))
        return "head" if self.head >= self.layers[layer] else f"layer {layer}"


@torch.no_grad()
def layer_errors(reference: Reference, model: LayeredModel, ids: Sequence[int], prompt: int) -> LayerErrors:
    """Run ``ids`` through ``model``, all but the last token of the first ``prompt`` through prefill.

    Both start from the model's own rows: a last bit of difference there could turn a rounding further on.
    """
    embeddings, ple = model.embeddings(ids), model.ple(ids)
    decoder, config = reference.decoder, reference.config
    state = decoder.begin(torch.from_numpy(embeddings)[None], torch.from_numpy(ple)[None], torch.arange(len(ids)))
    cache = EagerCache(config)
    decoded = prompt - 1
    errors = []
    produced = model.run(embeddings, ple, prompt)
    for layer in range(config.num_layers):
        expected = _layer(decoder, layer, state, cache, decoded)
        streams = next(produced)
        wanted = torch.cat(expected.streams).transpose(0, 1).numpy()
        errors.append(relative_error(streams.reshape(-1, streams.shape[-1]), wanted.reshape(-1, wanted.shape[-1])))
        if not np.isfinite(errors[-1]):
            return LayerErrors((*errors,), np.inf, np.full((len(ids) - decoded, config.vocab_size), np.nan))
        state = expected._replace(streams=tuple(torch.from_numpy(streams[None, :, a]) for a in range(streams.shape[1])))
    logits = next(produced)
    head = relative_error(logits, decoder.logits(state.streams)[0].numpy())
    return LayerErrors(tuple(errors), head, logits)


def _layer(decoder: TextDecoder, i: int, state: State, cache: EagerCache, decoded: int) -> State:
    """The reference's layer ``i``; from the last owner of keys and values on, only tokens from ``decoded`` on."""
    last = decoder.config.num_kv_layers - 1
    if i != last:
        return decoder.layer(i, state, cache)
    predicted = decoder.predict(i, state.streams)
    x = decoder.norm(f"layers.{i}.input_layernorm", predicted[decoder.config.altup_active_idx])
    decoder.keys_values(i, x, state.rope, cache)
    narrow = State(
        tuple(_tail(s, decoded) for s in state.streams),
        _tail(state.embeddings, decoded),
        _tail(state.ple, decoded),
        {kind: (_tail(cos, decoded), _tail(sin, decoded)) for kind, (cos, sin) in state.rope.items()},
    )
    return decoder.block(i, tuple(_tail(p, decoded) for p in predicted), _tail(x, decoded), narrow, cache)


def _tail(x: Tensor, begin: int) -> Tensor:
    return x[:, begin:]
