"""The text decoder over soft tokens for training: hidden states of the answer alone.

It equals the library's model at those positions (``tests/nano``). What no answer depends on is not computed: earlier
tokens end with their keys and values at the last KV owner, and never enter the KV-shared layers.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Gemma3nTextConfig

from nano_training.forward import (
    _STREAMS,
    Decoder,
    Slice,
    Weights,
    _match_power,
    _norm,
    _rope,
    _visible,
    layer_weights,
)

_SLIDING = "sliding_attention"


class SoftDecoder(Decoder):
    """Runs rows of one length, with the same number of answer positions in each."""

    def __init__(self, config: Gemma3nTextConfig, compiled: bool = False) -> None:
        super().__init__(config, compiled)
        self._owners = config.num_hidden_layers - config.num_kv_shared_layers

    def answer(
        self,
        weights: Weights,
        embeddings: Tensor,
        ids: Tensor,
        places: Tensor,
        *,
        visible: Tensor | None = None,
        part: Slice | None = None,
    ) -> Tensor:
        """Final, normed hidden states (B * S, D) of the positions ``places`` (B, S).

        ``embeddings`` (B, T, D) are the scaled text embeddings and the soft tokens; ``ids`` (B, T) select the rows of
        the per-layer embeddings. ``visible`` (B or 1, T, T) hides keys beyond causality and the window, for rows of
        several conversations. ``part`` is a MatFormer slice; the whole model if it is left out.
        """
        widths = self.config.intermediate_size if part is None else part.widths
        kept = [i for i in range(self.config.num_hidden_layers) if part is None or i not in part.skip]
        w = {name.removeprefix("model.").removesuffix(".weight"): weight for name, weight in weights.items()}
        rows, length = ids.shape
        first = embeddings.flatten(0, 1)
        ple = self._per_layer_inputs(w, ids.flatten(), first)
        streams = [
            first,
            *(_match_power(F.linear(first, w[f"altup_projections.{i}"]), first) for i in range(_STREAMS - 1)),
        ]

        flat = (places + torch.arange(rows)[:, None] * length).flatten()
        masks = {kind: self._mask(kind, length, visible) for kind in set(self.config.layer_types)}

        shared: dict[str, tuple[Tensor, Tensor]] = {}
        for layer, width in zip(kept, widths, strict=True):
            kind = self.config.layer_types[layer]
            own = layer_weights(w, layer, width)
            rope = _rope(self.config.rope_parameters[kind]["rope_theta"], self.config.head_dim, length, rows)
            owns_kv = layer < self._owners
            if layer >= self._owners:
                rope = (rope[0][flat], rope[1][flat])
            predictions, normed, query, key, value = self._before(streams, rope, own, owns_kv)
            if owns_kv:
                shared[kind] = tuple(
                    x.view(rows, length, -1, self.config.head_dim).transpose(1, 2) for x in (key, value)
                )
            if layer == self._owners - 1:
                predictions, normed, query, ple = [p[flat] for p in predictions], normed[flat], query[flat], ple[flat]
                masks = {k: _at(mask, places) for k, mask in masks.items()}
            attended = F.scaled_dot_product_attention(
                query.view(rows, -1, self.config.num_attention_heads, self.config.head_dim).transpose(1, 2),
                *shared[kind],
                attn_mask=masks[kind],
                scale=1.0,
                enable_gqa=True,
            )
            attended = attended.transpose(1, 2).reshape(len(query), -1)
            streams = self._after(attended, predictions, normed, ple[:, layer], self._cutoffs[layer], own)
        last = [streams[0]]
        for i, stream in enumerate(streams[1:]):
            last.append(_match_power(F.linear(stream, w[f"altup_unembed_projections.{i}"]), streams[0]))
        return _norm(torch.stack(last).mean(0), w["norm"])

    def _mask(self, kind: str, length: int, visible: Tensor | None) -> Tensor:
        """What each position of a layer of ``kind`` sees, to be added to its scores: (B or 1, 1, T, T)."""
        seen = _visible(length, self.config.sliding_window if kind == _SLIDING else None)[None]
        if visible is not None:
            seen = seen & visible
        return torch.zeros(seen.shape).masked_fill_(~seen, float("-inf"))[:, None]


def _at(mask: Tensor, places: Tensor) -> Tensor:
    """The rows ``places`` (B, S) of ``mask`` (B or 1, 1, T, T): (B, 1, S, T)."""
    index = places[:, None, :, None].expand(-1, -1, -1, mask.shape[-1])
    return mask.expand(len(places), -1, -1, -1).gather(2, index)
