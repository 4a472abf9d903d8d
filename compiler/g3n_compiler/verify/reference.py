"""The references: ``transformers`` eager, and our decoder over exact or fake-quantised weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from g3n_compiler.models.eager_cache import EagerCache
from g3n_compiler.models.embedding_tables import EmbeddingTables
from g3n_compiler.models.registry import parameter_count, text_weights
from g3n_compiler.models.weights import Adapted, AdaptedWeights, LazyWeights, TensorWeights, Weights
from g3n_compiler.quantize.fake import FakeQuantWeights
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.source import Source

SMALL_PARAMETERS = 300_000_000
"""Models with at most this many text parameters are held whole in float32; larger ones are read layer by layer."""
CHUNK = 64


def is_small(source: Source) -> bool:
    return parameter_count(source.text) <= SMALL_PARAMETERS


class Reference:
    """Teacher-forced and greedy runs of our decoder over exact (``recipe=None``) or fake-quantised weights.

    Args:
        adapter: a LoRA adapter by the names of weights, added in float.
        float_activations: round the weights alone, as for a GPU, which does not quantise activations.
    """

    def __init__(
        self,
        source: Source,
        recipe: Recipe | None = None,
        adapter: Mapping[str, Adapted] | None = None,
        float_activations: bool = False,
    ) -> None:
        config, specs = source.text, text_weights(source.text)
        keep = is_small(source)
        weights: Weights
        if recipe is not None and recipe.name != "fp32":
            weights = FakeQuantWeights(source.read, specs, recipe, keep, float_activations)
        elif keep:
            weights = TensorWeights({name: source.read(spec) for name, spec in specs.items()})
        else:
            weights = LazyWeights(source.read, specs)
        if adapter is not None:
            weights = AdaptedWeights(weights, adapter)
        self.config = config
        self.tables = EmbeddingTables(config, source.read, recipe)
        self.decoder = source.family.decoder(config, weights)

    @torch.no_grad()
    def logits(self, ids: Sequence[int], chunk: int = CHUNK) -> Tensor:
        """``[T, vocab]`` float32, every position; ``chunk`` positions are computed together."""
        cache = EagerCache(self.config)
        out = [self._step(ids[i : i + chunk], cache) for i in range(0, len(ids), chunk)]
        return torch.cat(out)

    @torch.no_grad()
    def greedy(self, ids: Sequence[int], count: int) -> tuple[list[int], list[float]]:
        """``count`` greedy tokens after ``ids`` and, for each, the margin of the best logit over the second best."""
        cache = EagerCache(self.config)
        logits = [self._step(ids[i : i + CHUNK], cache)[-1] for i in range(0, len(ids), CHUNK)][-1]
        tokens: list[int] = []
        margins: list[float] = []
        for _ in range(count):
            best = logits.topk(2)
            tokens.append(int(best.indices[0]))
            margins.append(float(best.values[0] - best.values[1]))
            logits = self._step(tokens[-1:], cache)[-1]
        return tokens, margins

    def _step(self, ids: Sequence[int], cache: EagerCache) -> Tensor:
        at = torch.arange(cache.length, cache.length + len(ids))
        out = self.decoder.decode(self.tables.embeddings(ids), self.tables.ple(ids), at, cache)
        cache.advance()
        return out[0]


@torch.no_grad()
def hf_logits(model: Any, ids: Sequence[int]) -> Tensor:
    """``[T, vocab]`` float32 from a ``transformers`` model, with all positions in one pass."""
    return model(input_ids=torch.tensor([list(ids)])).logits[0].float()


@torch.no_grad()
def hf_greedy(model: Any, ids: Sequence[int], count: int) -> tuple[list[int], list[float]]:
    """``count`` greedy tokens after ``ids`` from ``transformers`` with its own cache, and the margin at each."""
    past, step = None, torch.tensor([list(ids)])
    tokens: list[int] = []
    margins: list[float] = []
    for _ in range(count):
        out = model(input_ids=step, past_key_values=past, use_cache=True)
        past = out.past_key_values
        best = out.logits[0, -1].float().topk(2)
        tokens.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
        step = torch.tensor([tokens[-1:]])
    return tokens, margins
