"""Turn a converted graph's weight inputs into constants, quantised and streamed behind the flatbuffer.

This takes the memory of the flatbuffer and of one block of rows, whatever the model's size. Signatures that use the
same weight share its bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from g3n_compiler.errors import TargetError
from g3n_compiler.lower.litert import file_headers, flatbuffer, partial_model
from g3n_compiler.lower.litert.stream_weights import Placed, Read, check_scheme, stream_weights
from g3n_compiler.lower.litert.tensor_names import name_tensors
from g3n_compiler.models.weights import WeightSpec
from g3n_compiler.quantize.recipe import Recipe, Scheme

HYBRID_VERSION = 12
"""The version of FULLY_CONNECTED with float activations and weights quantised row by row (TFLite's op_version.cc)."""
TENSOR_TYPES = {
    32: schema.TensorType.FLOAT32,
    8: schema.TensorType.INT8,
    4: schema.TensorType.INT4,
    2: schema.TensorType.INT2,
}


@dataclass(frozen=True)
class BoundWeight:
    """Where a weight's bytes are in the bound file, and how they are encoded."""

    name: str
    scheme: str
    offset: int
    nbytes: int


def bind(
    graph: bytes,
    specs: Mapping[str, WeightSpec],
    recipe: Recipe,
    read: Read,
    path: Path,
    signature_groups: Sequence[Sequence[str]] = (),
) -> tuple[BoundWeight, ...]:
    """Write ``graph`` with its weights to ``path``; the same arguments give the same bytes.

    Args:
        graph: from :func:`g3n_compiler.lower.litert.text.convert`.
        specs: every weight; each must be used by some signature.
        read: reads a weight from the checkpoint.
        signature_groups: leave room for the headers of :func:`.file_headers.write_file_headers`.

    Raises:
        NotFinite: a weight holds a NaN or an infinity.
        TargetError: the recipe cannot be applied to a weight, or the graph does not use one.
    """
    model = flatbuffer.parse(graph)
    uses = _constants_for(model, {s.input_name: s for s in specs.values()}, recipe)
    if missing := sorted(specs.keys() - uses.keys()):
        raise TargetError(
            f"no signature of the graph reads {len(missing)} weights, for example {missing[0]}: the graph is incomplete"
        )
    partial_model.hide_layer_outputs(model)
    buffers = {name: model.buffers[use.buffer] for name, use in uses.items()}
    flatbuffer.compact(model)
    name_tensors(model, buffers)
    size = flatbuffer.place(model, file_headers.header_bytes(model, signature_groups))
    placed = [Placed(spec, recipe.scheme(spec), buffers[name].offset) for name, spec in specs.items()]
    with path.open("wb") as file:
        for weight, scales in zip(placed, stream_weights(file, placed, read), strict=True):
            for quantization in uses[weight.spec.name].quantizations:
                quantization.scale = scales
        flatbuffer.write_header(file, model, size)
    return tuple(BoundWeight(w.spec.name, w.scheme.label, w.offset, buffers[w.spec.name].size) for w in placed)


class _Use:
    """A weight's buffer, and the quantization parameters (one per signature) whose scales are still to be filled in."""

    def __init__(self, buffer: int) -> None:
        self.buffer = buffer
        self.quantizations: list[Any] = []


def _constants_for(model: Any, by_input: Mapping[str, WeightSpec], recipe: Recipe) -> dict[str, _Use]:
    """Turn every signature's weight inputs into tensors that refer to external buffers."""
    for spec in by_input.values():
        check_scheme(spec, recipe.scheme(spec))
    buffers: dict[str, _Use] = {}
    inputs = {t.name.decode() for d in model.signatureDefs for t in d.inputs}
    # In the order of the specs, so that a layer's weights are next to each other in the file.
    for input_name, spec in by_input.items():
        if input_name in inputs:
            nbytes = recipe.scheme(spec).nbytes(spec.shape)
            buffers[spec.name] = _Use(flatbuffer.add_external_buffer(model, nbytes))
    for definition in model.signatureDefs:
        subgraph = model.subgraphs[definition.subgraphIndex]
        weights = {t.tensorIndex: by_input[t.name.decode()] for t in definition.inputs if t.name.decode() in by_input}
        for index, spec in weights.items():
            use, scheme = buffers[spec.name], recipe.scheme(spec)
            use.quantizations += _make_constant(subgraph.tensors[index], spec, scheme, use.buffer)
            if scheme.bits < 32:
                _mark_hybrid(model, subgraph, index, spec)
        definition.inputs = [t for t in definition.inputs if t.tensorIndex not in weights]
        subgraph.inputs = np.array([i for i in subgraph.inputs if i not in weights], np.int32)
    return buffers


def _make_constant(tensor: Any, spec: WeightSpec, scheme: Scheme, buffer: int) -> list[Any]:
    """Point ``tensor`` at ``buffer``; returns its quantization parameters, if any, for the scales to be filled in."""
    if tuple(tensor.shape) != spec.shape:
        raise AssertionError(f"{spec.name} is {list(tensor.shape)} in the graph, {list(spec.shape)} in the model")
    tensor.buffer = buffer
    tensor.type = TENSOR_TYPES[scheme.bits]
    if scheme.bits == 32:
        return []
    rows = spec.shape[0]
    # Placeholder scales must differ: equal vectors are written once, and the size must not change later.
    tensor.quantization = schema.QuantizationParametersT(
        scale=np.full(rows, buffer, np.float32), zeroPoint=np.zeros(rows, np.int64), quantizedDimension=0
    )
    return [tensor.quantization]


def _mark_hybrid(model: Any, subgraph: Any, index: int, spec: WeightSpec) -> None:
    """Make the linear layers that read tensor ``index`` quantise their activations, as XNNPACK does, on any kernel."""
    for operator in subgraph.operators:
        if index not in operator.inputs:
            continue
        name = flatbuffer.operator_name(model, operator)
        if name != "FULLY_CONNECTED" or operator.inputs[1] != index:
            raise TargetError(
                f"{spec.name} is read by {name}, which does not take quantised weights: keep it fp32 in the recipe"
            )
        operator.builtinOptions.asymmetricQuantizeInputs = True
        operator.opcodeIndex = flatbuffer.operator_code(model, schema.BuiltinOperator.FULLY_CONNECTED, HYBRID_VERSION)
