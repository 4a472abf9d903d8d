"""The two embedding tables as TFLite models of their own, in which LiteRT-LM looks up one token at a time.

They are written operator by operator, because a converter would hold the table in memory, and the largest has billions
of values. Rows are quantised and streamed behind the flatbuffer. The engine maps the file, so a token touches one row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from g3n_compiler.lower.litert import flatbuffer
from g3n_compiler.lower.litert.bind_weights import TENSOR_TYPES
from g3n_compiler.lower.litert.stream_weights import Placed, Read, check_scheme, stream_weights
from g3n_compiler.models.embedding_tables import embedding_weights, ple_tables
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.models.weights import WeightSpec
from g3n_compiler.quantize.recipe import Recipe, Scheme

TOKEN_SIGNATURE = "embedder"
PLE_SIGNATURE = "per_layer_embedder"
LOOKUP_VERSION = 4
"""The version of EMBEDDING_LOOKUP that takes int4 and int8 tables with one scale per row."""


def write_token_embedder(config: TextConfig, recipe: Recipe, read: Read, path: Path) -> None:
    """Write the token embedding: ``token_ids [1, 1]`` int32 -> ``embeddings [1, 1, hidden]`` times ``sqrt(hidden)``.

    An id outside the vocabulary makes the engine fail, as it does in ``transformers``.
    """
    spec = embedding_weights(config)["embed_tokens"]
    shape = (1, 1, config.hidden_size)
    _write_lookup(path, read, [spec], recipe.scheme(spec), shape, math.sqrt(config.hidden_size), TOKEN_SIGNATURE)


def write_ple_embedder(config: TextConfig, recipe: Recipe, read: Read, path: Path) -> None:
    """Write the per-layer embedding: ``token_ids [1, 1]`` int32 -> ``embeddings [1, 1, layers, ple_dim]``.

    Rows are multiplied by ``sqrt(ple_dim)``. Ids outside the table (image, audio, padding) look up row 0, as in
    ``Gemma3nTextModel.get_per_layer_inputs``.
    """
    specs = ple_tables(config)
    shape = (1, 1, config.num_layers, config.ple_dim)
    scale = math.sqrt(config.ple_dim)
    runs = _runs(config.ple_groups, config.ple_dim) if len(specs) > 1 else ()
    _write_lookup(path, read, specs, recipe.scheme(specs[0]), shape, scale, PLE_SIGNATURE, True, runs)


class _Run(NamedTuple):
    """Values ``[begin, begin + length)`` of a row of a table."""

    table: int
    begin: int
    length: int


def _runs(groups: Sequence[tuple[int, ...]], width: int) -> tuple[_Run, ...]:
    """Where each layer's rows are in the tables of ``groups``, in layer order."""
    places = {layer: (table, at) for table, group in enumerate(groups) for at, layer in enumerate(group)}
    runs: list[_Run] = []
    for layer in range(len(places)):
        table, at = places[layer]
        last = runs[-1] if runs else None
        if last is not None and (last.table, last.begin + last.length) == (table, at * width):
            runs[-1] = last._replace(length=last.length + width)
        else:
            runs.append(_Run(table, at * width, width))
    return tuple(runs)


def _write_lookup(
    path: Path,
    read: Read,
    specs: Sequence[WeightSpec],
    scheme: Scheme,
    shape: Sequence[int],
    scale: float,
    signature: str,
    outside_is_row_0: bool = False,
    runs: Sequence[_Run] = (),
) -> None:
    """Write a model that looks up a row in each of ``specs``; ``runs`` say how the rows are joined if there are
    several.
    """
    for spec in specs:
        check_scheme(spec, scheme)
    graph = _Graph(signature)
    ids = graph.tensor("token_ids", (1, 1), schema.TensorType.INT32)
    row = graph.reshape(ids, (1,), "id", schema.TensorType.INT32)
    if outside_is_row_0:
        row = _row_or_zero(graph, row, specs[0].shape[0])
    tables = [graph.tensor(f"table_{i}", spec.shape, TENSOR_TYPES[scheme.bits]) for i, spec in enumerate(specs)]
    found = [_look_up(graph, row, table, spec, scheme) for table, spec in zip(tables, specs, strict=True)]
    joined = _join(graph, found, runs) if runs else found[0]
    if scheme.bits == 32:
        factor = graph.constant("scale", np.array([scale], np.float32))
        scaled = graph.tensor("scaled", graph.tensors[joined].shape, schema.TensorType.FLOAT32)
        joined = graph.operator("MUL", [joined, factor], [scaled])
    out = graph.reshape(joined, shape, "embeddings", schema.TensorType.FLOAT32)
    graph.finish({"token_ids": ids}, {"embeddings": out})
    size = flatbuffer.place(graph.model)
    with path.open("wb") as file:
        offsets = [b.offset for b in flatbuffer.external_buffers(graph.model)]
        placed = [Placed(spec, scheme, offset) for spec, offset in zip(specs, offsets, strict=True)]
        for table, scales in zip(tables, stream_weights(file, placed, read), strict=True):
            if scheme.bits < 32:
                graph.tensors[table].quantization.scale = scales * np.float32(scale)
        flatbuffer.write_header(file, graph.model, size)


def _look_up(graph: _Graph, row: int, table: int, spec: WeightSpec, scheme: Scheme) -> int:
    """Row ``row`` of a new external table, whose scales are still placeholders."""
    rows, width = spec.shape
    tensor = graph.tensors[table]
    tensor.buffer = flatbuffer.add_external_buffer(graph.model, scheme.nbytes(spec.shape))
    if scheme.bits < 32:
        tensor.quantization = schema.QuantizationParametersT(
            scale=np.full(rows, tensor.buffer, np.float32), zeroPoint=np.zeros(rows, np.int64), quantizedDimension=0
        )
    found = graph.tensor("row", (1, width), schema.TensorType.FLOAT32)
    return graph.operator("EMBEDDING_LOOKUP", [row, table], [found], version=LOOKUP_VERSION)


def _join(graph: _Graph, found: Sequence[int], runs: Sequence[_Run]) -> int:
    """The ``runs`` of the rows ``found``, one after another."""
    parts = []
    for run in runs:
        begin = graph.constant("begin", np.array([0, run.begin], np.int32))
        count = graph.constant("count", np.array([1, run.length], np.int32))
        part = graph.tensor("part", (1, run.length), schema.TensorType.FLOAT32)
        parts.append(graph.operator("SLICE", [found[run.table], begin, count], [part]))
    width = sum(run.length for run in runs)
    return graph.operator("CONCATENATION", parts, [graph.tensor("joined", (1, width), schema.TensorType.FLOAT32)])


def _row_or_zero(graph: _Graph, row: int, rows: int) -> int:
    """``row`` where ``0 <= row < rows``, else 0."""
    boolean, zero = schema.TensorType.BOOL, graph.constant("zero", np.array([0], np.int32))
    limit = graph.constant("rows", np.array([rows], np.int32))
    low = graph.operator("GREATER_EQUAL", [row, zero], [graph.tensor("not_negative", (1,), boolean)])
    high = graph.operator("LESS", [row, limit], [graph.tensor("in_table", (1,), boolean)])
    both = graph.operator("LOGICAL_AND", [low, high], [graph.tensor("known", (1,), boolean)])
    return graph.operator("SELECT_V2", [both, row, zero], [graph.tensor("table_row", (1,), schema.TensorType.INT32)])


OPTIONS: dict[str, Callable[[], Any]] = {
    "RESHAPE": schema.ReshapeOptionsT,
    "MUL": schema.MulOptionsT,
    "GREATER_EQUAL": schema.GreaterEqualOptionsT,
    "LESS": schema.LessOptionsT,
    "LOGICAL_AND": schema.LogicalAndOptionsT,
    "SELECT_V2": schema.SelectV2OptionsT,
    "SLICE": schema.SliceOptionsT,
    "CONCATENATION": lambda: schema.ConcatenationOptionsT(axis=1),
}
"""Operators that carry options, which the runtime requires even where they are empty."""


class _Graph:
    """A model of one subgraph and one signature, built by hand."""

    def __init__(self, signature: str) -> None:
        self.tensors: list[Any] = []
        self._signature = signature
        self._subgraph = schema.SubGraphT(name=signature, tensors=self.tensors, operators=[])
        self.model = schema.ModelT(
            version=3,
            description="g3n embedding",
            operatorCodes=[],
            buffers=[schema.BufferT()],
            subgraphs=[self._subgraph],
        )

    def tensor(self, name: str, shape: Sequence[int], dtype: int) -> int:
        self.tensors.append(schema.TensorT(name=name, shape=np.array(shape, np.int32), type=dtype, hasRank=True))
        return len(self.tensors) - 1

    def constant(self, name: str, value: np.ndarray) -> int:
        dtype = schema.TensorType.INT32 if value.dtype == np.int32 else schema.TensorType.FLOAT32
        index = self.tensor(name, value.shape, dtype)
        self.model.buffers.append(schema.BufferT(data=np.frombuffer(value.tobytes(), np.uint8)))
        self.tensors[index].buffer = len(self.model.buffers) - 1
        return index

    def operator(self, name: str, inputs: Sequence[int], outputs: Sequence[int], version: int = 1) -> int:
        """Append an operator and return its first output."""
        code = flatbuffer.operator_code(self.model, getattr(schema.BuiltinOperator, name), version)
        operator = schema.OperatorT(
            opcodeIndex=code, inputs=np.array(inputs, np.int32), outputs=np.array(outputs, np.int32)
        )
        if make := OPTIONS.get(name):
            operator.builtinOptions = make()
            kind = type(operator.builtinOptions).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        self._subgraph.operators.append(operator)
        return outputs[0]

    def reshape(self, x: int, shape: Sequence[int], name: str, dtype: int) -> int:
        target = self.constant(name + "_shape", np.array(shape, np.int32))
        out = self.operator("RESHAPE", [x, target], [self.tensor(name, shape, dtype)])
        self._subgraph.operators[-1].builtinOptions.newShape = np.array(shape, np.int32)
        return out

    def finish(self, inputs: dict[str, int], outputs: dict[str, int]) -> None:
        self._subgraph.inputs = np.array(list(inputs.values()), np.int32)
        self._subgraph.outputs = np.array(list(outputs.values()), np.int32)
        maps = [[schema.TensorMapT(name=n, tensorIndex=i) for n, i in m.items()] for m in (inputs, outputs)]
        self.model.signatureDefs = [
            schema.SignatureDefT(signatureKey=self._signature, subgraphIndex=0, inputs=maps[0], outputs=maps[1])
        ]
