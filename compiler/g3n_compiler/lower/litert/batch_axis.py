"""Give the linear layers of a converted graph their leading axis back.

The converter drops it where one linear layer follows another (LAUREL's two, for one): ``[1, T, K]`` becomes ``[T, N]``.
LiteRT's GPU delegate takes the first axis for a batch, and then refuses the whole graph ("Unable to parse bc coord for
BATCH axis"). The bytes of a tensor are the same with the axis and without it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from g3n_compiler.lower.litert import flatbuffer

ELEMENTWISE = frozenset({"ADD", "SUB", "MUL", "GELU", "TANH", "LOGISTIC", "RELU", "SQUARE"})
"""Operators whose result has the shape of their inputs."""
KEEPS_AXES = 5
"""The first version of FULLY_CONNECTED that has the option ``keep_num_dims``."""


def restore_batch_axis(model: Any) -> None:
    """Change ``model``, as :func:`.flatbuffer.parse` gives it, so that linear layers keep the axis ``[1, T, N]``."""
    for subgraph in model.subgraphs:
        restored: set[int] = set()
        for operator in subgraph.operators:
            _restore(model, subgraph, operator, restored)


def _is_one_sequence(tensor: Any) -> bool:
    """Whether a tensor is ``[1, T, K]``."""
    return tensor is not None and tensor.shape is not None and len(tensor.shape) == 3 and tensor.shape[0] == 1


def _restore(model: Any, subgraph: Any, operator: Any, restored: set[int]) -> None:
    name = flatbuffer.operator_name(model, operator)
    result = subgraph.tensors[operator.outputs[0]]
    given = subgraph.tensors[operator.inputs[0]] if len(operator.inputs) else None
    if name == "FULLY_CONNECTED" and _is_one_sequence(given) and len(result.shape) == 2:
        operator.builtinOptions.keepNumDims = True
        code = model.operatorCodes[operator.opcodeIndex]
        if code.version < KEEPS_AXES:
            operator.opcodeIndex = flatbuffer.operator_code(model, schema.BuiltinOperator.FULLY_CONNECTED, KEEPS_AXES)
    elif not (name in ELEMENTWISE and len(result.shape) == 2 and restored.intersection(operator.inputs)):
        if restored.intersection(operator.inputs) and name not in ELEMENTWISE | {"FULLY_CONNECTED", "RESHAPE"}:
            raise AssertionError(f"{name} reads what a linear layer computed without its leading axis")
        return
    result.shape = np.array([1, *result.shape], np.int32)
    restored.add(operator.outputs[0])
