"""What the XNNPACK delegate really runs of a finished TFLite model, found by applying the delegate to it.

The interpreter is told not to fuse delegated nodes, so each operator that the delegate accepts becomes a delegate node
of its own and can be identified by its output. Weights are not needed for that: operators are measured on a copy of the
flatbuffer with zeros (a hole in a temporary file) for weights. They are measured some at a time, because the delegate
packs even the zeros.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_edge_litert.interpreter import Interpreter

from g3n_compiler.lower.artifact import Delegation
from g3n_compiler.lower.litert import flatbuffer
from g3n_compiler.lower.litert.partial_model import reduced

MEASURED_WITH = "ai-edge-litert interpreter, XNNPACK"
PART_BYTES = 128 << 20
"""Bytes of constants measured at a time."""
FREE = frozenset({"RESHAPE", "SLICE", "CONCATENATION", "TRANSPOSE", "GATHER", "PACK", "UNPACK", "DYNAMIC_UPDATE_SLICE"})
"""Operators that move values and compute nothing."""


@dataclass(frozen=True)
class Operator:
    """One operator of a signature, its floating-point operations, and whether the delegate runs it."""

    name: str
    flops: int
    delegated: bool


def measure(path: Path, offset: int = 0, threads: int = 2) -> Delegation:
    """Delegation of all signatures together, for the model that begins at byte ``offset`` of ``path``."""
    return summarize(op for operators in operators_by_signature(path, offset, threads).values() for op in operators)


def summarize(operators: Iterable[Operator]) -> Delegation:
    total, taken, flops, taken_flops = 0, 0, 0, 0
    fallbacks: Counter[str] = Counter()
    for operator in operators:
        total, flops = total + 1, flops + operator.flops
        if operator.delegated:
            taken, taken_flops = taken + 1, taken_flops + operator.flops
        else:
            fallbacks[operator.name] += 1
    return Delegation(
        measured_with=MEASURED_WITH,
        delegated_ops=taken,
        total_ops=total,
        op_share=taken / total if total else 0.0,
        flop_share=taken_flops / flops if flops else 0.0,
        fallbacks=dict(sorted(fallbacks.items())),
    )


def operators_by_signature(path: Path, offset: int = 0, threads: int = 2) -> dict[str, list[Operator]]:
    """Every operator of each signature, in order."""
    model = flatbuffer.parse_file(path, offset)
    with tempfile.NamedTemporaryFile(suffix=".tflite", dir=path.parent) as file:
        scratch = Path(file.name)
        return {
            d.signatureKey.decode(): [
                operator
                for part in _parts(model, model.subgraphs[d.subgraphIndex])
                for operator in _operators(model, model.subgraphs[d.subgraphIndex], part, scratch, threads)
            ]
            for d in model.signatureDefs
        }


def _parts(model: Any, subgraph: Any) -> Iterator[list[Any]]:
    """The operators in runs whose constants stay below :data:`PART_BYTES`; a single larger one is a run of its own."""
    part: list[Any] = []
    nbytes = 0
    for operator in subgraph.operators:
        needed = sum(model.buffers[subgraph.tensors[t].buffer].size for t in operator.inputs if t >= 0)
        if part and nbytes + needed > PART_BYTES:
            yield part
            part, nbytes = [], 0
        part.append(operator)
        nbytes += needed
    yield part


def _operators(model: Any, subgraph: Any, part: list[Any], scratch: Path, threads: int) -> list[Operator]:
    produced = {int(t) for operator in part for t in operator.outputs}
    read = {int(t) for operator in part for t in operator.inputs if t >= 0}
    begins = sorted(t for t in read - produced if not _is_constant(model, subgraph.tensors[t]))
    cut = copy.copy(model)
    cut.subgraphs = [reduced(subgraph, part, begins, sorted(produced))]
    cut.signatureDefs = []
    taken = _taken(cut, scratch, threads)
    operators = []
    for operator, there in zip(part, cut.subgraphs[0].operators, strict=True):
        name = flatbuffer.operator_name(model, operator)
        delegated = not taken.isdisjoint(int(t) for t in there.outputs)
        operators.append(Operator(name, _flops(name, operator, subgraph.tensors), delegated))
    return operators


def _is_constant(model: Any, tensor: Any) -> bool:
    buffer = model.buffers[tensor.buffer]
    return buffer.offset > 1 or (buffer.data is not None and len(buffer.data) > 0)


def _taken(model: Any, scratch: Path, threads: int) -> set[int]:
    """Tensors that the delegate computes, of a model of one subgraph."""
    size = flatbuffer.place(model)
    with scratch.open("wb") as file:
        flatbuffer.write_header(file, model, size)
    interpreter = Interpreter(
        model_path=str(scratch), num_threads=threads, experimental_disable_delegate_node_fusion=True
    )
    interpreter.allocate_tensors()  # applies the delegate
    nodes = interpreter._get_ops_details()
    return {int(t) for node in nodes if node["op_name"] == "DELEGATE" for t in node["outputs"]}


def _flops(name: str, operator: Any, tensors: list[Any]) -> int:
    """Floating-point operations: two for each multiply-add of a product, one for each element computed otherwise."""
    if name in FREE:
        return 0
    outputs = sum(math.prod(int(n) for n in tensors[t].shape) for t in operator.outputs)
    if name == "FULLY_CONNECTED":
        return 2 * outputs * int(tensors[operator.inputs[1]].shape[-1])
    if name == "BATCH_MATMUL":
        shape = tensors[operator.inputs[0]].shape
        return 2 * outputs * int(shape[-2] if operator.builtinOptions.adjX else shape[-1])
    if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        # Filters are [out, h, w, in] and [1, h, w, out]: what is summed for one output is all but the output channels.
        shape = [int(n) for n in tensors[operator.inputs[1]].shape]
        return 2 * outputs * math.prod(shape[1:] if name == "CONV_2D" else shape[1:3])
    return outputs
