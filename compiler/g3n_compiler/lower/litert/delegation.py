"""What the XNNPACK delegate really takes of a finished TFLite model, found by letting it take the model apart.

The interpreter is told not to fuse delegated nodes, so that each operator the delegate accepts becomes a delegate node
of its own and can be named by its output. Weights are not needed for that: each signature is measured on a copy of
the flatbuffer in front of a hole in a temporary file.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_edge_litert.interpreter import Interpreter

from g3n_compiler.lower.backend import Delegation
from g3n_compiler.lower.litert import flatbuffer

MEASURED_WITH = "ai-edge-litert interpreter, XNNPACK"
FREE = frozenset({"RESHAPE", "SLICE", "CONCATENATION", "TRANSPOSE", "GATHER", "PACK", "UNPACK", "DYNAMIC_UPDATE_SLICE"})
"""Operators that move values and compute none."""


@dataclass(frozen=True)
class Operator:
    """One operator of a signature, its floating-point operations, and whether the delegate took it."""

    name: str
    flops: int
    delegated: bool


def measure(path: Path, threads: int = 2) -> Delegation:
    """Delegation of all signatures of the model at ``path`` together."""
    return summarize(op for operators in operators_by_signature(path, threads).values() for op in operators)


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


def operators_by_signature(path: Path, threads: int = 2) -> dict[str, list[Operator]]:
    """Every operator of each signature of the model at ``path``."""
    names = [d.signatureKey.decode() for d in flatbuffer.parse_file(path).signatureDefs]
    return {name: _operators(path, name, threads) for name in names}


def _operators(path: Path, signature: str, threads: int) -> list[Operator]:
    model = flatbuffer.isolate(flatbuffer.parse_file(path), signature)
    subgraph = model.subgraphs[0]
    size = flatbuffer.place(model)
    with tempfile.NamedTemporaryFile(suffix=".tflite", dir=path.parent) as file:
        flatbuffer.write_header(file, model, size)
        file.flush()
        interpreter = Interpreter(
            model_path=file.name, num_threads=threads, experimental_disable_delegate_node_fusion=True
        )
        interpreter.allocate_tensors()  # applies the delegate
        nodes = interpreter._get_ops_details()
    taken = {int(t) for node in nodes if node["op_name"] == "DELEGATE" for t in node["outputs"]}
    operators = []
    for operator in subgraph.operators:
        name = flatbuffer.operator_name(model, operator)
        delegated = not taken.isdisjoint(int(t) for t in operator.outputs)
        operators.append(Operator(name, _flops(name, operator, subgraph.tensors), delegated))
    return operators


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
