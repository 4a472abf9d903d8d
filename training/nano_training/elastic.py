"""One set of weights, trained through its MatFormer slices."""

import math
from random import Random

import torch
from torch import Tensor, nn
from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

from g3n_compiler.nano import SKIPPABLE
from nano_training.config import FFN_WIDTH, LAYERS
from nano_training.forward import Decoder, Slice
from nano_training.loss import softcapped_cross_entropy

EMBEDDING = "model.embed_tokens.weight"


def uniform(width: int, skip: tuple[int, ...] = ()) -> Slice:
    """The slice with the same FFN width in every kept layer."""
    return Slice((width,) * (LAYERS - len(skip)), skip)


FULL = uniform(FFN_WIDTH)
HALF = uniform(FFN_WIDTH // 2)
SMALLEST = uniform(FFN_WIDTH // 2, SKIPPABLE)


def sample_slice(rng: Random) -> Slice:
    """The slice for one training step: half the time the whole model, otherwise a smaller one."""
    choice = rng.random()
    if choice < 0.5:
        return FULL
    if choice < 0.7:
        return HALF
    if choice < 0.8:
        return Slice(tuple(rng.choice((FFN_WIDTH, FFN_WIDTH // 2)) for _ in range(LAYERS)))
    if choice < 0.95:
        return SMALLEST
    return uniform(FFN_WIDTH, SKIPPABLE)


def initialize(model: Gemma3nForCausalLM) -> None:
    """Variance-preserving initialisation. ``correct_output_scale`` starts at 1: at 0, the library's default, the
    per-layer embeddings contribute nothing, and the norm after them multiplies gradients by a thousand.
    """
    config = model.config
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("correct_output_scale"):
                weight.fill_(1.0)
            elif name.endswith(("q_norm.weight", "k_norm.weight")):
                weight.fill_(config.head_dim**-0.25)  # attention scores are not scaled otherwise
            elif name.endswith("modality_router.weight"):
                nn.init.normal_(weight, std=2.0)  # its input is divided by the hidden size
            elif name.endswith(("prediction_coefs.weight", "correction_coefs.weight")):
                nn.init.normal_(weight, std=0.1)
            elif weight.dim() == 2:
                nn.init.normal_(weight, std=1 / math.sqrt(_fan_in(name, weight, config)))


def _fan_in(name: str, weight: Tensor, config: Gemma3nTextConfig) -> int:
    if name.endswith("embed_tokens_per_layer.weight"):
        return config.hidden_size_per_layer_input
    return weight.shape[1]


class ElasticModel:
    """The full weights, and their loss through slices of them."""

    def __init__(self, config: Gemma3nTextConfig, seed: int, compiled: bool = False) -> None:
        torch.manual_seed(seed)
        self.config = config
        self.model = Gemma3nForCausalLM(config).eval()
        initialize(self.model)
        self.weights = {name: p for name, p in self.model.named_parameters() if name != "lm_head.weight"}
        self._plain = Decoder(config)
        self._training = Decoder(config, compiled=True) if compiled else self._plain

    def loss(self, tokens: Tensor, part: Slice) -> Tensor:
        """Mean next-token loss in nats of ``tokens`` (B, T + 1) under the slice ``part``."""
        decoder = self._training if torch.is_grad_enabled() else self._plain
        hidden = decoder(self.weights, tokens[:, :-1], part)
        return softcapped_cross_entropy(hidden, self.weights[EMBEDDING], tokens[:, 1:].flatten())
