"""One tiny model, converted once: five layers, so that prefill attends on a ring and on a full cache, and shared
layers read both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.lower.litert.bind_weights import bind
from g3n_compiler.lower.litert.container import SectionKind, write_litertlm
from g3n_compiler.lower.litert.metadata import executor_metadata, llm_metadata
from g3n_compiler.lower.litert.tables import write_ple_embedder, write_token_embedder
from g3n_compiler.lower.litert.text import convert
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.models.registry import text_weights
from g3n_compiler.quantize.recipe import INT2, RECIPES
from g3n_compiler.quantize.saved import mixed
from g3n_compiler.source import Source
from g3n_runtime.litert.model import LiteRtModel, LiteRtParts
from tests.conftest import make_tiny

CONTEXT = 96
CACHE = 97
"""Positions of the graph's full caches: a prime, so that the engine may shorten them."""
PREFILL = 24
WINDOW = 16
WIDTHS = {**RECIPES, "int2": mixed("int2", {**RECIPES["int4"].roles, "attention": INT2, "ffn": INT2}, {})}
"""Recipes by name, and one with 2 bits in every matrix of attention and FFN."""
LAYER_TYPES = ["sliding_attention", "full_attention", "sliding_attention", "full_attention", "sliding_attention"]


@dataclass(frozen=True)
class Converted:
    """A checkpoint, its converted graph, and the folder that lowered files go to."""

    source: Source
    graph: bytes
    folder: Path

    @property
    def config(self) -> TextConfig:
        return self.source.text

    def parts(self, recipe: str) -> LiteRtParts:
        """The TFLite models of ``recipe``, written at the first call."""
        parts = LiteRtParts(*(self.folder / f"{recipe}-{name}.tflite" for name in ("core", "token", "ple")))
        if not parts.decoder.exists():
            read, chosen = self.source.read, WIDTHS[recipe]
            write_token_embedder(self.config, chosen, read, parts.embedder)
            write_ple_embedder(self.config, chosen, read, parts.per_layer_embedder)
            bind(self.graph, text_weights(self.config), chosen, read, parts.decoder)
        return parts

    def model(self, recipe: str) -> LiteRtModel:
        return LiteRtModel(self.parts(recipe))

    def pack(self, recipe: str, path: Path) -> Path:
        """The ``.litertlm`` of ``recipe``."""
        parts = self.parts(recipe)
        models: dict[SectionKind, Path] = {
            "prefill_decode": parts.decoder,
            "embedder": parts.embedder,
            "per_layer_embedder": parts.per_layer_embedder,
        }
        tokenizer = load_tokenizer(self.source.directory, self.config)
        llm = llm_metadata(CONTEXT, tokenizer, tokenizer.template.jinja)
        write_litertlm(path, models, tokenizer.sentencepiece, llm, executor_metadata(self.config, CONTEXT))
        return path


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    folder = tmp_path_factory.mktemp("litert")
    tiny = make_tiny(
        folder / "checkpoint",
        num_hidden_layers=5,
        num_kv_shared_layers=2,
        layer_types=LAYER_TYPES,
        sliding_window=WINDOW,
        activation_sparsity_pattern=[0.95, 0.95, 0.0, 0.0, 0.0],
    )
    source = tiny.open()
    return Converted(source, convert(source.text, CONTEXT, [PREFILL], cache_length=CACHE), folder)
