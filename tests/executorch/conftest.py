"""One tiny model: a sliding and a full KV owner, and a layer that reads the first's cache. Lowered as seldom as can be:
fp32 with ``forward``, int4 with the methods that MultimodalRunner and our own loop call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from g3n_compiler.checkpoint.config import TextConfig
from g3n_compiler.checkpoint.reader import Checkpoint
from g3n_compiler.lower.executorch.lower import ExecuTorchArtifacts, MethodName, lower_text
from g3n_compiler.lower.executorch.pieces import Pieces
from g3n_compiler.lower.executorch.weights import XnnpackWeights, checkpoint_parts
from g3n_compiler.modules.weights import text_weights
from g3n_compiler.quantize.recipe import get_recipe
from g3n_compiler.verify.reference import Reference
from g3n_runtime.executorch_model import ExecuTorchParts
from tests.conftest import make_tiny

CONTEXT, CHUNK, WINDOW = 96, 12, 16
METHODS: dict[str, tuple[MethodName, ...]] = {"fp32": ("forward",), "int4": ("token_embedding", "text_decoder")}


@dataclass(frozen=True)
class Lowered:
    """A checkpoint, what it was lowered to, and the eager decoder over the same rounded weights."""

    checkpoint: Checkpoint
    made: ExecuTorchArtifacts
    reference: Reference

    @property
    def config(self) -> TextConfig:
        return self.checkpoint.text

    @property
    def parts(self) -> ExecuTorchParts:
        return ExecuTorchParts(self.made.model, self.made.tables, self.checkpoint.directory / "tokenizer.json")


Lower = Callable[[str], Lowered]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make_tiny(
        tmp_path_factory.mktemp("executorch"),
        num_hidden_layers=3,
        num_kv_shared_layers=1,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        sliding_window=WINDOW,
        activation_sparsity_pattern=[0.95, 0.0, 0.0],
    ).open()


def eager_pieces(checkpoint: Checkpoint, recipe: str) -> Pieces:
    """The decoder's pieces as PyTorch modules over the checkpoint's weights."""
    specs, parts = text_weights(checkpoint.text), checkpoint_parts(checkpoint.read)
    weights = XnnpackWeights(specs, get_recipe(recipe), parts)
    return Pieces(checkpoint.text, lambda kind, layer: kind(checkpoint.text, weights, layer))


def lower(checkpoint: Checkpoint, recipe: str, folder: Path) -> ExecuTorchArtifacts:
    return lower_text(
        checkpoint.text,
        checkpoint.read,
        get_recipe(recipe),
        CONTEXT,
        folder,
        chunk=CHUNK,
        methods=METHODS[recipe],
    )


@pytest.fixture(scope="session")
def lowered(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Lower:
    """Each recipe's program, lowered once."""
    folder = tmp_path_factory.mktemp("lowered")
    made: dict[str, Lowered] = {}

    def get(recipe: str) -> Lowered:
        if recipe not in made:
            reference = Reference(checkpoint, None if recipe == "fp32" else get_recipe(recipe))
            made[recipe] = Lowered(checkpoint, lower(checkpoint, recipe, folder / recipe), reference)
        return made[recipe]

    return get
