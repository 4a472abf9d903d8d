"""The references: ``transformers`` eager, and our decoder over exact or fake-quantised weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from g3n_compiler.checkpoint.config import TextConfig
from g3n_compiler.checkpoint.multimodal import EmbedderConfig, Tower
from g3n_compiler.checkpoint.reader import Checkpoint
from g3n_compiler.errors import WrongModel
from g3n_compiler.modules.cache import EagerCache
from g3n_compiler.modules.decoder import TextDecoder
from g3n_compiler.modules.embedder import EmbeddingTables
from g3n_compiler.modules.weights import LazyWeights, TensorWeights, Weights, parameter_count, text_weights
from g3n_compiler.quantize.fake import FakeQuantWeights
from g3n_compiler.quantize.recipe import Recipe

SMALL_PARAMETERS = 300_000_000
"""Models up to this many text parameters are held in float32 whole; larger ones are read layer by layer."""
CHUNK = 64


def is_small(checkpoint: Checkpoint) -> bool:
    return parameter_count(checkpoint.text) <= SMALL_PARAMETERS


def load_hf(checkpoint: Checkpoint) -> Any:
    """``Gemma3nForCausalLM`` in float32 with eager attention, filled through our reader (so adapters are merged)."""
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

    from g3n_compiler.checkpoint.config import read_json

    raw = read_json(checkpoint.directory / "config.json")
    fields = {k: v for k, v in raw.get("text_config", raw).items() if k not in ("dtype", "torch_dtype")}
    try:
        config = Gemma3nTextConfig(**(fields | _per_layer_fields(checkpoint.text)))
    except Exception as error:  # its validation raises errors of several libraries
        raise WrongModel(f"transformers does not take config.json: {str(error)[:300]}") from None
    config._attn_implementation = "eager"
    model = Gemma3nForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "lm_head.weight":
                parameter.copy_(checkpoint.read_relative(name.removeprefix("model.")))
        if checkpoint.hard_rows is not None:
            # As `Gemma3nModel` embeds the towers' ids; the head, which is tied to the table, keeps their text rows.
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
            for tower, embedder in checkpoint.hard_rows.embedders.items():
                ids = torch.tensor(embedder.ids)
                rows = load_hf_embedder(checkpoint, tower, embedder)(input_ids=ids[None])[0]
                model.model.embed_tokens.weight[ids] = rows / checkpoint.text.hidden_size**0.5
    return model


def _per_layer_fields(config: TextConfig) -> dict[str, Any]:
    """What a slice changes, as ``transformers`` names it."""
    return {
        "num_hidden_layers": config.num_layers,
        "intermediate_size": list(config.ffn_dims),
        "layer_types": list(config.layer_types),
        "activation_sparsity_pattern": list(config.sparsity),
        "num_kv_shared_layers": config.num_kv_shared_layers,
    }


def load_hf_embedder(checkpoint: Checkpoint, tower: Tower, config: EmbedderConfig) -> Any:
    """``Gemma3nMultimodalEmbedder`` of ``tower`` in float32, filled through our reader."""
    from transformers import Gemma3nTextConfig, Gemma3nVisionConfig
    from transformers.models.gemma3n.modeling_gemma3n import Gemma3nMultimodalEmbedder

    # It reads these four fields of whichever tower's config.
    fields = asdict(config)
    embedder = Gemma3nMultimodalEmbedder(
        Gemma3nVisionConfig(**fields), Gemma3nTextConfig(hidden_size=checkpoint.text.hidden_size)
    )
    with torch.no_grad():
        for name, parameter in embedder.named_parameters():
            parameter.copy_(checkpoint.read_tensor(f"{checkpoint.tower_prefix}embed_{tower}.{name}"))
    return embedder.float().eval()


class Reference:
    """Teacher-forced and greedy runs of our decoder over exact (``recipe=None``) or fake-quantised weights."""

    def __init__(self, checkpoint: Checkpoint, recipe: Recipe | None = None) -> None:
        config, specs = checkpoint.text, text_weights(checkpoint.text)
        keep = is_small(checkpoint)
        weights: Weights
        if recipe is not None and recipe.name != "fp32":
            weights = FakeQuantWeights(checkpoint.read, specs, recipe, keep)
        elif keep:
            weights = TensorWeights({name: checkpoint.read(spec) for name, spec in specs.items()})
        else:
            weights = LazyWeights(checkpoint.read, specs)
        self.config = config
        self.tables = EmbeddingTables(config, checkpoint.read, recipe)
        self.decoder = TextDecoder(config, weights)

    @torch.no_grad()
    def logits(self, ids: Sequence[int]) -> Tensor:
        """``[T, vocab]`` float32, every position."""
        cache = EagerCache(self.config)
        out = [self._step(ids[i : i + CHUNK], cache) for i in range(0, len(ids), CHUNK)]
        return torch.cat(out)

    @torch.no_grad()
    def greedy(self, ids: Sequence[int], count: int) -> tuple[list[int], list[float]]:
        """``count`` greedy tokens after ``ids`` and, for each, the margin of the best logit over the second."""
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
    """``[T, vocab]`` float32 of a ``transformers`` model, all positions in one pass."""
    return model(input_ids=torch.tensor([list(ids)])).logits[0].float()


@torch.no_grad()
def hf_greedy(model: Any, ids: Sequence[int], count: int) -> tuple[list[int], list[float]]:
    """``count`` greedy tokens after ``ids`` by ``transformers`` with its own cache, with the margin at each."""
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
