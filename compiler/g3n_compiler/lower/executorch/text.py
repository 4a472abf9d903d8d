"""Lower the text model to ``model.pte`` and, beside it, the embedding tables in ``model.ptd``."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from g3n_compiler.errors import ContextError
from g3n_compiler.lower.artifact import Delegation
from g3n_compiler.lower.executorch.cache import CacheBuffers, full_slots
from g3n_compiler.lower.executorch.delegates.text import (
    DecoderPiece,
    DecoderPieces,
    FanOut,
    LayerBody,
    Logits,
    Predict,
    PredictWithKeysValues,
)
from g3n_compiler.lower.executorch.delegates.text_templates import TextTemplates
from g3n_compiler.lower.executorch.delegates.weight_store import store_weights
from g3n_compiler.lower.executorch.delegation import DelegateCall, measure
from g3n_compiler.lower.executorch.methods import (
    ChunkDecoder,
    Forward,
    LayerProbe,
    RowDecoder,
    Tables,
    TokenEmbedding,
    row_width,
)
from g3n_compiler.lower.executorch.program import Method, export_method, serialize, to_edge
from g3n_compiler.lower.executorch.tables import (
    EmbeddingTable,
    TableLayout,
    TablesFile,
    TableSource,
    write_tables,
)
from g3n_compiler.lower.executorch.weights import ReadRows, checkpoint_parts
from g3n_compiler.lower.resume import Steps
from g3n_compiler.models.embedding_tables import embedding_weights
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.models.registry import text_weights
from g3n_compiler.quantize.recipe import Recipe

MethodName = Literal["forward", "token_embedding", "text_decoder", "layer_probe"]
MODEL = "model.pte"
TABLES = "model.ptd"
TABLES_RECORD = "model.ptd.json"
DELEGATION = "model.pte.json"
WEIGHTS = "weights"
"""Folder of the encoded weights, among the files of a compile's steps."""
TABLES_TAG = "model"
"""The program's name for the data file."""
EXAMPLE_TOKENS = 6
"""Tokens in the example inputs: any number but 0 and 1, which tracing would treat as constants."""


@dataclass(frozen=True)
class ExecuTorchArtifacts:
    """What :func:`lower_text` wrote and measured."""

    model: Path
    tables: Path
    file: TablesFile
    methods: tuple[MethodName, ...]
    delegation: Delegation
    """That of the decoder methods."""


def lower_text(
    config: TextConfig,
    read: ReadRows,
    recipe: Recipe,
    context: int,
    steps: Steps,
    *,
    chunk: int = 128,
    methods: Sequence[MethodName] = ("forward",),
    stop_ids: Sequence[int] | None = None,
    head_shares_table: bool = True,
    keep_weights: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> ExecuTorchArtifacts:
    """Make ``model.pte`` and ``model.ptd`` as resumable ``steps``. The same arguments give the same bytes.

    Args:
        read: returns a weight, or rows of it, as float32.
        context: positions in the KV cache.
        steps: reuses what an interrupted run with the same arguments has made.
        chunk: the most tokens in one call; a longer prompt is prefilled in chunks of this size.
        methods: the program's methods, see :mod:`.methods`.
        stop_ids: tokens that end an answer (by default the config's).
        head_shares_table: whether ``read`` gives the token table and the head the same rows. It does not if towers'
            hard tokens have rows of their own in the table, see
            :class:`~g3n_compiler.models.gemma3n.soft_tokens.HardTokenRows`.
        keep_weights: whether the encoded weights stay among the files of the steps, for another program.
        progress: called with a line as each part of a step begins.

    Raises:
        ContextError: ``context`` or ``chunk`` does not fit the model.
        NotFinite: a weight holds a NaN or an infinity.
    """
    check_lengths(config, context, chunk)
    specs = text_weights(config)
    sources = table_sources(config, recipe)
    head = recipe.scheme(specs["lm_head"])
    # The tied head has the same integers as the table, so the file contains them once.
    tied = head_shares_table and head == sources["embed_tokens"].scheme and head.bits == 8

    def make_tables(path: Path) -> None:
        made = write_tables(path, sources, read, ("embed_tokens",) if tied else ())
        (steps.folder / TABLES_RECORD).write_text(json.dumps(asdict(made)), encoding="utf-8")

    tables = steps.file(TABLES, make_tables, "executorch: writing the embedding tables", (TABLES_RECORD,))
    file = TablesFile.from_json(json.loads((steps.folder / TABLES_RECORD).read_text(encoding="utf-8")))

    def make_model(path: Path) -> None:
        progress("quantising the weights")
        parts = checkpoint_parts(lambda spec: read(spec, None), read)
        folder = steps.folder / WEIGHTS
        folder.mkdir(exist_ok=True)
        outside = {"lm_head": file.weight_names["embed_tokens"]} if tied else {}
        stored = store_weights(specs, recipe, parts, folder, outside)
        progress("lowering each kind of layer to XNNPACK")
        templates = TextTemplates(config, specs, recipe, stored, chunk, full_slots(context))
        built = build_methods(config, DecoderPieces(config, templates), recipe, context, chunk, methods)
        progress("tracing the methods")
        programs = {m.name: export_method(m, chunk) for m in built}
        edge = to_edge(programs, metadata(config, context, chunk, file.layouts, stop_ids or config.eos_ids))
        # Before serialize, which turns the graphs into ones for the runtime.
        decoders = [name for name in methods if name in ("forward", "text_decoder")]
        calls = delegate_calls(templates, config, context, chunk)
        measured = measure(edge, dict.fromkeys(decoders, calls), chunk)
        (steps.folder / DELEGATION).write_text(json.dumps(asdict(measured)), encoding="utf-8")
        progress("writing the program")
        look_ups = {"forward", "token_embedding"}.intersection(methods)
        rows = {f"{name}.{part}": layout.rows for name, layout in file.layouts.items() for part in layout.parts}
        data = {**stored.data, **templates.constants}
        program = serialize(edge, rows if look_ups else {}, TABLES_TAG, data)
        with path.open("wb") as output:
            program.write_to_file(output)

    model = steps.file(MODEL, make_model, "executorch: making the program", (DELEGATION,))
    if not keep_weights:
        shutil.rmtree(steps.folder / WEIGHTS, ignore_errors=True)
    delegation = Delegation(**json.loads((steps.folder / DELEGATION).read_text(encoding="utf-8")))
    return ExecuTorchArtifacts(model, tables, file, tuple(methods), delegation)


def delegate_calls(templates: TextTemplates, config: TextConfig, context: int, chunk: int) -> list[DelegateCall]:
    """The delegates that a decoder method calls for a chunk of ``chunk`` tokens, in order."""
    caches = CacheBuffers(config, context, chunk)

    def call(kind: type[DecoderPiece], layer: int, tokens: int) -> DelegateCall:
        template = templates.get(kind, layer)
        sizes = {"tokens": tokens, "slots": caches.slots(config.layer_types[layer])}
        return DelegateCall(template.operators, {symbol: sizes[name] for symbol, name in template.symbols.items()})

    out = [call(FanOut, 0, chunk)]
    for i in range(config.num_layers):
        owner, last = i < config.num_kv_layers, i >= config.num_kv_layers - 1
        out.append(call(PredictWithKeysValues, i, chunk) if owner else call(Predict, i, 1))
        out.append(call(LayerBody, i, 1 if last else chunk))
    return [*out, call(Logits, 0, 1)]


def table_sources(config: TextConfig, recipe: Recipe) -> dict[str, TableSource]:
    """The two tables. Per-layer rows have their embedding's factor, a power of two, in their scales."""
    specs = embedding_weights(config)
    tokens, ple = specs["embed_tokens"], specs["embed_tokens_per_layer"]
    return {
        "embed_tokens": TableSource(tokens, recipe.scheme(tokens)),
        "embed_tokens_per_layer": TableSource(ple, recipe.scheme(ple), math.sqrt(config.ple_dim)),
    }


def build_methods(
    config: TextConfig, pieces: DecoderPieces, recipe: Recipe, context: int, chunk: int, names: Sequence[MethodName]
) -> list[Method]:
    """The methods as modules over the same ``pieces``, with inputs to trace them on."""
    embed = {name: EmbeddingTable(s.spec.shape[1], s.scheme) for name, s in table_sources(config, recipe).items()}
    tables = Tables(config, embed["embed_tokens"], embed["embed_tokens_per_layer"])
    decoder = ChunkDecoder(config, pieces, context, chunk)
    length = min(EXAMPLE_TOKENS, chunk)
    tokens, positions = torch.zeros(1, length, dtype=torch.int64), torch.arange(length)
    rows = torch.zeros(1, length, row_width(config))
    made = {
        "forward": Method("forward", Forward(tables, decoder), (tokens, positions), (1, 0)),
        "token_embedding": Method("token_embedding", TokenEmbedding(tables), (tokens,), (1,)),
        "text_decoder": Method("text_decoder", RowDecoder(decoder), (rows, positions), (1, 0)),
        "layer_probe": Method("layer_probe", LayerProbe(decoder), (rows, positions), (1, 0)),
    }
    return [made[name] for name in names]


def metadata(
    config: TextConfig, context: int, chunk: int, layouts: Mapping[str, TableLayout], stop_ids: Sequence[int]
) -> dict[str, Any]:
    """Methods without inputs: what stock runners ask for, and where ``g3n_runtime`` finds the tables.

    ``get_table_<name>`` is ``[rows, width, bits, values_offset, scales_offset]``.
    """
    tables = {f"get_table_{name}": list(astuple(layout)) for name, layout in layouts.items()}
    return {
        "get_max_seq_len": chunk,
        "get_max_context_len": context,
        "use_kv_cache": True,
        "enable_dynamic_shape": True,
        "use_sdpa_with_kv_cache": False,
        "get_vocab_size": config.vocab_size,
        "get_bos_id": config.bos_id,
        "get_eos_ids": list(stop_ids),
        **tables,
    }


def check_lengths(config: TextConfig, context: int, chunk: int) -> None:
    """Raise :class:`ContextError` unless a program can be built for ``context`` and ``chunk``."""
    if not 2 <= context <= config.max_context:
        raise ContextError(f"context {context} is outside 2 to {config.max_context}, which the model supports")
    if not 2 <= chunk <= context:
        raise ContextError(f"a chunk of {chunk} tokens does not fit context {context}: use 2 to {context}")
