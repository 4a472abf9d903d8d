"""A tiny model of two sizes, converted once: owners of both kinds, and a shared layer that the smaller size skips."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from g3n_compiler.compile import CompileOptions, compile_bundle
from g3n_compiler.lower.litert import backend
from g3n_compiler.lower.litert.bind_weights import bind
from g3n_compiler.lower.litert.file_headers import write_file_headers
from g3n_compiler.lower.litert.tables import write_ple_embedder, write_token_embedder
from g3n_compiler.lower.litert.text import convert
from g3n_compiler.lower.signatures.text import VERIFY_LENGTH
from g3n_compiler.models.registry import text_weights
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.slice.elastic import Size, choose_sizes
from g3n_compiler.source import Source
from g3n_runtime.litert.elastic import ElasticModel
from g3n_runtime.litert.model import LiteRtParts
from tests.conftest import make_tiny

CONTEXT, PREFILL, WINDOW = 96, 24, 16
CACHE = 97
"""Positions of the full caches: a prime, which the engine may shorten."""
FULL, SMALL = "full", "half-2"
PLAIN = [f"prefill_{PREFILL}", "decode"]
HEADS = [PLAIN, [*PLAIN, f"verify_{VERIFY_LENGTH}", *(f"{SMALL}:{name}" for name in PLAIN)]]
SLIDING, GLOBAL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class Nested:
    """A checkpoint and its sizes, the converted graph of both, and the folder that lowered files go to."""

    source: Source
    sizes: tuple[Size, ...]
    graph: bytes
    folder: Path

    def of_size(self, name: str) -> Source:
        """The source of a size."""
        size = next(s for s in self.sizes if s.name == name)
        return self.source.sliced(size.plan, size.config)

    def parts(self, recipe: str) -> LiteRtParts:
        """The models that the loop over sizes runs."""
        return self._written(recipe)[1]

    def default(self, recipe: str) -> LiteRtParts:
        """The models that the stock engine runs."""
        return self._written(recipe)[0]

    def model(self, recipe: str) -> ElasticModel:
        return ElasticModel(self.parts(recipe), [s.name for s in self.sizes], 1)

    def _written(self, recipe: str) -> tuple[LiteRtParts, LiteRtParts]:
        names = ("core", "token", "ple", "elastic")
        core, token, ple, elastic = (self.folder / f"{recipe}-{name}.tflite" for name in names)
        if not core.exists():
            read, chosen, config = self.source.read, RECIPES[recipe], self.sizes[0].config
            write_token_embedder(config, chosen, read, token)
            write_ple_embedder(config, chosen, read, ple)
            bind(self.graph, text_weights(config), chosen, read, core, HEADS)
            _, begin = write_file_headers(core, HEADS)
            elastic.write_bytes(core.read_bytes()[begin:])
        return LiteRtParts(core, token, ple), LiteRtParts(elastic, token, ple)


@pytest.fixture(scope="session")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Nested:
    folder = tmp_path_factory.mktemp("elastic")
    tiny = make_tiny(
        folder / "checkpoint",
        num_hidden_layers=4,
        num_kv_shared_layers=2,
        layer_types=[SLIDING, GLOBAL, SLIDING, GLOBAL],
        sliding_window=WINDOW,
        activation_sparsity_pattern=[0.95, 0.0, 0.0, 0.0],
    )
    source = tiny.open()
    sizes = choose_sizes([FULL, SMALL], source.text)
    source = source.divided(sizes[0].config)
    graph = convert(sizes[0].config, CONTEXT, [PREFILL], sizes[1:], CACHE)
    return Nested(source, sizes, graph, folder)


@pytest.fixture(scope="session")
def bundle(nested: Nested, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that ``g3n-compile --elastic`` makes of the checkpoint; its graph is the one converted already."""
    out = tmp_path_factory.mktemp("workspace") / "exported" / "tiny"
    options = CompileOptions(
        checkpoint=nested.source.directory,
        runtime="litert",
        context=CONTEXT,
        prefill_lengths=(PREFILL,),
        elastic=(SMALL, FULL),
        out=out,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "convert", lambda *asked: nested.graph)
        return compile_bundle(options, lambda line: None)
