"""The text decoder over soft tokens for training: hidden states of the answer alone.

It equals the library's model at those positions (``tests/nano``). What no answer depends on is not computed: earlier
tokens end with their keys and values at the last KV owner, and never enter the KV-shared layers.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Gemma3nTextConfig

from nano_training.forward import _STREAMS, Decoder, Weights, _match_power, _norm, _rope, _visible

_SLIDING = "sliding_attention"


class SoftDecoder(Decoder):
    """Runs rows of one length whose answers all begin at the same place."""

    def __init__(self, config: Gemma3nTextConfig, compiled: bool = False) -> None:
        super().__init__(config, compiled)
        self._owners = config.num_hidden_layers - config.num_kv_shared_layers

    def answer(self, weights: Weights, embeddings: Tensor, ids: Tensor, start: int, room: int) -> Tensor:
        """Final, normed hidden states (B * room, D) of the positions from ``start`` to ``start + room``.

        ``embeddings`` (B, T, D) are the scaled text embeddings and the soft tokens; ``ids`` (B, T) select the rows of
        the per-layer embeddings.
        """
        w = {name.removeprefix("model.").removesuffix(".weight"): weight for name, weight in weights.items()}
        rows, length = ids.shape
        first = embeddings.flatten(0, 1)
        ple = self._per_layer_inputs(w, ids.flatten(), first)
        streams = [
            first,
            *(_match_power(F.linear(first, w[f"altup_projections.{i}"]), first) for i in range(_STREAMS - 1)),
        ]

        def tail(x: Tensor) -> Tensor:
            return x.unflatten(0, (rows, length))[:, start : start + room].flatten(0, 1)

        shared: dict[str, tuple[Tensor, Tensor]] = {}
        for layer in range(self.config.num_hidden_layers):
            prefix, kind = f"layers.{layer}.", self.config.layer_types[layer]
            own = {name.removeprefix(prefix): weight for name, weight in w.items() if name.startswith(prefix)}
            rope = _rope(self.config.rope_parameters[kind]["rope_theta"], self.config.head_dim, length, rows)
            owns_kv, narrow = layer < self._owners, layer >= self._owners - 1
            if layer >= self._owners:
                rope = (tail(rope[0]), tail(rope[1]))
            predictions, normed, query, key, value = self._before(streams, rope, own, owns_kv)
            if owns_kv:
                shared[kind] = tuple(
                    x.view(rows, length, -1, self.config.head_dim).transpose(1, 2) for x in (key, value)
                )
            if layer == self._owners - 1:
                predictions, normed, query, ple = [tail(p) for p in predictions], tail(normed), tail(query), tail(ple)
            mask = _visible(length, self.config.sliding_window if kind == _SLIDING else None)
            attended = F.scaled_dot_product_attention(
                query.view(rows, -1, self.config.num_attention_heads, self.config.head_dim).transpose(1, 2),
                *shared[kind],
                attn_mask=mask[start : start + room] if narrow else mask,
                scale=1.0,
                enable_gqa=True,
            )
            attended = attended.transpose(1, 2).reshape(len(query), -1)
            streams = self._after(attended, predictions, normed, ple[:, layer], self._cutoffs[layer], own)
        last = [streams[0]]
        for i, stream in enumerate(streams[1:]):
            last.append(_match_power(F.linear(stream, w[f"altup_unembed_projections.{i}"]), streams[0]))
        return _norm(torch.stack(last).mean(0), w["norm"])
