"""One tiny model: a sliding and a full KV owner, and a layer that reads the first's cache. Lowered twice a session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from g3n_compiler.checkpoint.config import TextConfig
from g3n_compiler.checkpoint.reader import Checkpoint
from g3n_compiler.lower.executorch.lower import ExecuTorchArtifacts, lower_text
from g3n_compiler.lower.executorch.module import ChunkDecoder
from g3n_compiler.lower.executorch.weights import XnnpackWeights
from g3n_compiler.modules.weights import text_weights
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.verify.reference import Reference
from g3n_runtime.executorch import ExecuTorchParts
from tests.conftest import make_tiny

CONTEXT = 64
CHUNK = 12
WINDOW = 16


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


@pytest.fixture(scope="session")
def eager(checkpoint: Checkpoint) -> Callable[[int, int], ChunkDecoder]:
    """The module that is lowered, run by PyTorch: in fp32, for a context and a chunk."""
    weights = XnnpackWeights(text_weights(checkpoint.text), RECIPES["fp32"], checkpoint.read)

    def make(context: int, chunk: int) -> ChunkDecoder:
        return ChunkDecoder(checkpoint.text, weights, context, chunk).eval()

    return make


@pytest.fixture(scope="session")
def fp32(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    """``forward`` alone."""
    recipe, read = RECIPES["fp32"], checkpoint.read
    made = lower_text(checkpoint.text, read, recipe, CONTEXT, tmp_path_factory.mktemp("fp32"), chunk=CHUNK)
    return Lowered(checkpoint, made, Reference(checkpoint, recipe))


@pytest.fixture(scope="session")
def int4(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    """All methods, with the recipe that mixes int4, int8 and float32."""
    recipe, read = RECIPES["int4"], checkpoint.read
    made = lower_text(
        checkpoint.text,
        read,
        recipe,
        CONTEXT,
        tmp_path_factory.mktemp("int4"),
        chunk=CHUNK,
        methods=("forward", "token_embedding", "text_decoder"),
    )
    return Lowered(checkpoint, made, Reference(checkpoint, recipe))


@pytest.fixture(scope="session")
def ids(checkpoint: Checkpoint) -> list[int]:
    """A text that fills the context; some ids lie past the PLE table."""
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randint(0, checkpoint.text.vocab_size, (CONTEXT - 2,), generator=generator).tolist()
    return [2, checkpoint.text.vocab_size - 1, *drawn]


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
