"""The methods of a ``model.pte``, as ExecuTorch's stock runners call them.

=================== =========================================== ====================================================
``forward``         tokens ``[1, T]``, positions ``[T]``        TextLLMRunner, and so Android's LlmModule
``token_embedding`` tokens ``[1, T]``                           MultimodalRunner, with ``text_decoder``
``text_decoder``    rows ``[1, T, width]``, positions ``[T]``   MultimodalRunner, and our loop, which looks rows up
``layer_probe``     rows ``[1, T, width]``, positions ``[T]``   verification: each layer's output besides the logits
=================== =========================================== ====================================================

A row is a scaled token embedding (or soft token) followed by the token's per-layer embeddings of all layers.
``forward`` and ``text_decoder`` return logits ``[1, 1, vocab]`` for the last token. They take any number of tokens, so
prefill and decode are one method with one KV cache: the KV-owning layers run over the whole chunk, and the layers above
over its last token.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from g3n_compiler.lower.executorch.cache import CacheBuffers, Slots
from g3n_compiler.lower.executorch.delegates.text import DecoderPieces
from g3n_compiler.lower.executorch.tables import EmbeddingTable
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.models.shape import LayerType


class ChunkDecoder(nn.Module):
    """A chunk of tokens through the decoder, including the KV cache."""

    def __init__(self, config: TextConfig, pieces: DecoderPieces, context: int, chunk: int) -> None:
        super().__init__()
        self.config = config
        self.pieces = pieces
        self.caches = CacheBuffers(config, context, chunk)
        exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        for kind in sorted(set(config.layer_types)):
            frequencies = config.rope_theta(kind) ** -exponent
            self.register_buffer(f"frequencies_{kind}", torch.cat([frequencies] * 2).view(1, -1))

    def forward(self, embeddings: Tensor, ple: Tensor, positions: Tensor) -> Tensor:
        """Logits ``[1, 1, vocab]`` for the last token.

        Args:
            embeddings: ``[T, 1, hidden]`` float, scaled.
            ple: ``[1, T, layers * ple_dim]`` float, scaled.
            positions: ``[T]`` int64, consecutive.
        """
        *_, streams = self.layers(embeddings, ple, positions)
        return self.pieces.logits(*streams)[0]

    def layers(self, embeddings: Tensor, ple: Tensor, positions: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """AltUp's streams before the first layer and after each one; from the last KV owner on, only those of the last
        token.
        """
        c, last = self.config, positions[-1:]
        streams = (embeddings, *self.pieces.begin(embeddings))
        yield streams
        reached = self.caches.reached(last)
        view = self._view(last, positions, reached)
        cached: dict[int, tuple[Tensor, Tensor]] = {}
        for i in range(c.num_layers):
            cos, sin, mask = view[c.layer_types[i]]
            if i < c.num_kv_layers:
                *opened, key, value = self.pieces.openings[i](*streams, cos, sin)
                self.caches.write(i, positions, key, value)
                cached[i] = self.caches.read(i, reached)
            else:
                opened = list(self.pieces.openings[i](*streams))
            if i == c.num_kv_layers - 1:
                # From here on, nothing but the cache reads another position.
                opened, embeddings, ple = [x[-1:] for x in opened], embeddings[-1:], ple[:, -1:]
                view = self._view(last, last, reached)
                cos, sin, mask = view[c.layer_types[i]]
            rows = ple[..., i * c.ple_dim : (i + 1) * c.ple_dim]
            keys_values = cached[c.kv_owner(i)]
            streams = tuple(self.pieces.blocks[i](*opened, embeddings, rows, cos, sin, mask, *keys_values))
            yield streams

    def _view(self, last: Tensor, at: Tensor, reached: Slots) -> dict[LayerType, tuple[Tensor, Tensor, Tensor]]:
        """By kind of layer: cos, sin and mask for queries at positions ``at``."""
        out: dict[LayerType, tuple[Tensor, Tensor, Tensor]] = {}
        for kind in dict.fromkeys(self.config.layer_types):
            angle = at.to(torch.float32).view(-1, 1) * self.get_buffer(f"frequencies_{kind}")
            angle = angle.view(1, -1, 1, self.config.head_dim)
            out[kind] = angle.cos(), angle.sin(), self.caches.mask(kind, last, at, reached)
        return out


class Tables(nn.Module):
    """The two embedding tables."""

    def __init__(self, config: TextConfig, embed_tokens: EmbeddingTable, per_layer: EmbeddingTable) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = embed_tokens
        self.embed_tokens_per_layer = per_layer

    def embeddings(self, tokens: Tensor) -> Tensor:
        """Scaled token embeddings ``[1, T, hidden]`` of ``tokens [1, T]``."""
        return self.embed_tokens(tokens) * math.sqrt(self.config.hidden_size)

    def ple(self, tokens: Tensor) -> Tensor:
        """Scaled per-layer embeddings ``[1, T, layers * ple_dim]``; ids outside the table look up row 0, as in
        ``transformers``.
        """
        known = (tokens >= 0) & (tokens < self.config.ple_vocab_size)
        return self.embed_tokens_per_layer(torch.where(known, tokens, 0))


class Forward(nn.Module):
    """``forward``."""

    def __init__(self, tables: Tables, decoder: ChunkDecoder) -> None:
        super().__init__()
        self.tables = tables
        self.decoder = decoder

    def forward(self, tokens: Tensor, input_pos: Tensor) -> Tensor:
        c = self.decoder.config
        embeddings = self.tables.embeddings(tokens).view(-1, 1, c.hidden_size)
        return self.decoder(embeddings, self.tables.ple(tokens), input_pos)


class TokenEmbedding(nn.Module):
    """``token_embedding``."""

    def __init__(self, tables: Tables) -> None:
        super().__init__()
        self.tables = tables

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.cat((self.tables.embeddings(tokens), self.tables.ple(tokens)), -1)


class RowDecoder(nn.Module):
    """``text_decoder``."""

    def __init__(self, decoder: ChunkDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, rows: Tensor, input_pos: Tensor) -> Tensor:
        c = self.decoder.config
        embeddings = rows[..., : c.hidden_size].view(-1, 1, c.hidden_size)
        return self.decoder(embeddings, rows[..., c.hidden_size :], input_pos)


class LayerProbe(nn.Module):
    """``layer_probe``: logits, then AltUp's streams ``[T, altup_num_inputs, hidden]`` after each layer.

    From the last KV owner on, the streams are only those of the last token.
    """

    def __init__(self, decoder: ChunkDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, rows: Tensor, input_pos: Tensor) -> tuple[Tensor, ...]:
        c = self.decoder.config
        embeddings = rows[..., : c.hidden_size].view(-1, 1, c.hidden_size)
        _, *streams = self.decoder.layers(embeddings, rows[..., c.hidden_size :], input_pos)
        return self.decoder.pieces.logits(*streams[-1])[0], *(torch.cat(layer, 1) for layer in streams)


def row_width(config: TextConfig) -> int:
    """Floats per row of ``text_decoder``."""
    return config.hidden_size + config.num_layers * config.ple_dim
