"""One tiny model: a sliding and a full KV owner, and a layer that reads the first's cache. Lowered as seldom as can be:
fp32 with ``forward``, int4 with the methods that MultimodalRunner and our own loop call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from g3n_compiler.checkpoint.tokenizer_json import for_executorch
from g3n_compiler.lower.executorch.delegates.text import DecoderPieces
from g3n_compiler.lower.executorch.text import ExecuTorchArtifacts, MethodName, lower_text
from g3n_compiler.lower.executorch.weights import XnnpackWeights, checkpoint_parts
from g3n_compiler.lower.resume import Steps
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.models.registry import text_weights
from g3n_compiler.quantize.recipe import get_recipe
from g3n_compiler.source import Source
from g3n_compiler.verify.reference import Reference
from g3n_runtime.executorch.model import ExecuTorchParts
from tests.conftest import TINY, make_tiny

CONTEXT, CHUNK, WINDOW = 96, 12, 16
LONG = 500
"""A context of one step of what is read of a full layer, and a part of one."""
UNNAMED = 48
"""Ids of the model's vocabulary that its tokenizer has no token for."""
METHODS: dict[str, tuple[MethodName, ...]] = {
    "fp32": ("forward",),
    "int4": ("token_embedding", "layer_probe", "text_decoder"),
}


@dataclass(frozen=True)
class Lowered:
    """A checkpoint, what it was lowered to, and the eager decoder over the same rounded weights."""

    source: Source
    made: ExecuTorchArtifacts
    reference: Reference

    @property
    def config(self) -> TextConfig:
        return self.source.text

    @property
    def parts(self) -> ExecuTorchParts:
        return ExecuTorchParts(self.made.model, self.made.tables, self.made.model.with_name("tokenizer.json"))


Lower = Callable[[str], Lowered]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    tiny = make_tiny(
        tmp_path_factory.mktemp("executorch"),
        vocab_size=TINY["vocab_size"] + UNNAMED,
        num_hidden_layers=3,
        num_kv_shared_layers=1,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        sliding_window=WINDOW,
        activation_sparsity_pattern=[0.95, 0.0, 0.0],
    )
    with torch.no_grad():
        # As likely to be drawn, together, as all that the tokenizer has a name for.
        tiny.hf.model.embed_tokens.weight[TINY["vocab_size"] :] *= 1.45
    tiny.hf.save_pretrained(tiny.directory)
    return tiny.open()


def eager_pieces(source: Source, recipe: str) -> DecoderPieces:
    """The decoder's pieces as PyTorch modules over the checkpoint's weights."""
    specs, parts = text_weights(source.text), checkpoint_parts(source.read)
    weights = XnnpackWeights(specs, get_recipe(recipe), parts)
    return DecoderPieces(source.text, lambda kind, layer: kind(source.text, weights, layer))


def lower(source: Source, recipe: str, folder: Path, context: int = CONTEXT) -> ExecuTorchArtifacts:
    made = lower_text(
        source.text,
        source.read,
        get_recipe(recipe),
        context,
        Steps(folder, lambda line: None),
        chunk=CHUNK,
        methods=METHODS[recipe],
    )
    tokenizer = for_executorch(source.directory / "tokenizer.json", source.text.vocab_size)
    (folder / "tokenizer.json").write_bytes(tokenizer)
    return made


@pytest.fixture(scope="session")
def lowered(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Lower:
    """Each recipe's program, lowered once."""
    folder = tmp_path_factory.mktemp("lowered")
    made: dict[str, Lowered] = {}

    def get(recipe: str) -> Lowered:
        if recipe not in made:
            reference = Reference(source, None if recipe == "fp32" else get_recipe(recipe))
            made[recipe] = Lowered(source, lower(source, recipe, folder / recipe), reference)
        return made[recipe]

    return get
