"""Replay of nano's text training, so that it keeps its English and its slices while it learns images and sounds."""

from pathlib import Path
from random import Random

from torch import Tensor
from transformers import Gemma3nTextConfig

from nano_training import corpus
from nano_training.elastic import EMBEDDING, sample_slice
from nano_training.forward import Decoder, Weights
from nano_training.loss import softcapped_cross_entropy
from nano_training.tokens import encode_stream
from nano_training.train import TOKENS_PER_STEP, batch_at


class Replay:
    """Steps over random places in the training text's ``stream`` of tokens, through slices drawn as in ``train``."""

    def __init__(self, config: Gemma3nTextConfig, weights: Weights, stream: Tensor, compiled: bool = False) -> None:
        self._decoder, self._weights, self._stream = Decoder(config, compiled), weights, stream

    @classmethod
    def from_corpus(
        cls, config: Gemma3nTextConfig, weights: Weights, cache: Path, tokenizer_json: Path, compiled: bool
    ) -> "Replay":
        """A replay of the text that ``train`` uses, fetched into ``cache``."""
        return cls(config, weights, encode_stream(corpus.build(cache).train, tokenizer_json), compiled)

    def text(self, rng: Random, fraction: float) -> tuple[Tensor, float]:
        """Loss in nats of one batch, and the share of its tokens that were the most likely (not measured: 0)."""
        tokens, _ = batch_at(self._stream, rng.randrange(len(self._stream) - TOKENS_PER_STEP - 1), rng)
        hidden = self._decoder(self._weights, tokens[:, :-1], sample_slice(rng))
        return softcapped_cross_entropy(hidden, self._weights[EMBEDDING], tokens[:, 1:].flatten()), 0.0
