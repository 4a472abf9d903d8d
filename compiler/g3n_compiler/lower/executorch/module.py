"""The methods of a ``model.pte``, as ExecuTorch's stock runners call them.

=================== =========================================== ====================================================
``forward``         tokens ``[1, T]``, positions ``[T]``        TextLLMRunner, and so Android's LlmModule
``token_embedding`` tokens ``[1, T]``                           MultimodalRunner, with ``text_decoder``
``text_decoder``    rows ``[1, T, width]``, positions ``[T]``   MultimodalRunner, and whoever looks rows up by itself
=================== =========================================== ====================================================

A row is a scaled token embedding (or soft token) followed by the token's per-layer embeddings, all layers'. ``forward``
and ``text_decoder`` return logits ``[1, 1, vocab]`` of the last token. They take any number of tokens, so prefill and
decode are one method with one KV cache: the KV-owning layers run over the whole chunk, the layers above over its last
token.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from g3n_compiler.checkpoint.config import TextConfig
from g3n_compiler.lower.executorch.cache import CacheBuffers, ChunkCache
from g3n_compiler.lower.executorch.dialect import XnnpackDecoder, XnnpackDialect
from g3n_compiler.lower.executorch.tables import EmbeddingTable
from g3n_compiler.lower.executorch.weights import XnnpackWeights
from g3n_compiler.modules.decoder import State


class ChunkDecoder(nn.Module):
    """A chunk of tokens through the decoder, KV cache included."""

    def __init__(self, config: TextConfig, weights: XnnpackWeights, context: int, chunk: int) -> None:
        super().__init__()
        self.config = config
        self.weights = weights
        self.dialect = XnnpackDialect(config)
        self.caches = CacheBuffers(config, context, chunk)

    def forward(self, embeddings: Tensor, ple: Tensor, positions: Tensor) -> Tensor:
        """Logits of the last token.

        Args:
            embeddings: ``[T, 1, hidden]`` float, scaled.
            ple: ``[1, T, layers * ple_dim]`` float, scaled.
            positions: ``[T]`` int64, consecutive.

        Returns:
            ``[1, 1, vocab]``.
        """
        c = self.config
        decoder = XnnpackDecoder(c, self.weights, self.dialect)
        cache = ChunkCache(self.caches, positions)
        state = decoder.begin(embeddings, ple, positions)
        last = c.num_kv_layers - 1
        for i in range(last):
            state = decoder.layer(i, state, cache)
        predicted = decoder.predict(last, state.streams)
        x = decoder.norm(f"layers.{last}.input_layernorm", predicted[c.altup_active_idx])
        decoder.keys_values(last, x, state.rope, cache)

        narrow = LastToken(positions)
        cache.narrow()
        predicted = tuple(narrow(s) for s in predicted)
        state = State(predicted, narrow(state.embeddings), state.ple[:, -1:], decoder.rope(positions[-1:]))
        state = decoder.block(last, predicted, narrow(x), state, cache)
        for i in range(last + 1, c.num_layers):
            state = decoder.layer(i, state, cache)
        logits = decoder.logits(state.streams)
        cache.write()
        return logits


class LastToken:
    """Takes the last of T tokens, as a product with a one-hot row: a slice of a dynamic dimension is not delegated."""

    def __init__(self, positions: Tensor) -> None:
        self._selector = (positions == positions[-1:]).to(torch.float32).view(1, 1, -1)

    def __call__(self, x: Tensor) -> Tensor:
        """``[T, 1, K] -> [1, 1, K]``."""
        return torch.bmm(self._selector, x.view(1, -1, x.shape[-1]))


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
        """Scaled per-layer embeddings ``[1, T, layers * ple_dim]``; ids outside look up row 0, as HF has it."""
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


def row_width(config: TextConfig) -> int:
    """Floats in a row of ``text_decoder``."""
    return config.hidden_size + config.num_layers * config.ple_dim
