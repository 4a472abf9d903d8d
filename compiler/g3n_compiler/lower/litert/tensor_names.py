"""Names for the inner tensors of a bound graph, so that viewers and compilers for NPUs show what belongs to a layer.

A weight is called what it is called in the checkpoint's account, such as ``layers.3.mlp.up_proj``. What an operator
computes is called after the last weight on its way, the operator and its place in the signature, such as
``layers.3.mlp.up_proj/GELU_411``; between the streams of one layer and the first weight of the next, after that layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from g3n_compiler.lower.litert import flatbuffer
from g3n_compiler.lower.signatures.text import are_streams, streams_name

INPUTS = "inputs"
"""Scope of what is computed without any weight."""
HEAD = "head"
"""Scope of what follows the last layer."""


def name_tensors(model: Any, weights: Mapping[str, Any]) -> None:
    """Name every tensor of ``model`` that has no name, given the buffer of each weight by its name.

    Names that are there stay: those of a signature's inputs and outputs, and of the streams between layers.
    """
    by_buffer = {id(buffer): name for name, buffer in weights.items()}
    for subgraph in model.subgraphs:
        _name(model, subgraph, by_buffer)


def _name(model: Any, subgraph: Any, by_buffer: Mapping[int, str]) -> None:
    tensors = subgraph.tensors
    layers = sum(are_streams(_text(tensor.name)) for tensor in tensors)
    after = {streams_name(i): f"layers.{i + 1}" if i + 1 < layers else HEAD for i in range(layers)}
    own: dict[int, str] = {}
    for index, tensor in enumerate(tensors):
        if (name := by_buffer.get(id(model.buffers[tensor.buffer]))) is not None:
            tensor.name = own[index] = name
    scopes: dict[int, tuple[int, str]] = {}
    for place, operator in enumerate(subgraph.operators):
        read = [int(i) for i in operator.inputs if i >= 0]
        scope = next((own[i] for i in read if i in own), None)
        if scope is None:
            # The input that was computed last: it is the furthest on the way.
            scope = max((scopes[i] for i in read if i in scopes), default=(0, INPUTS))[1]
        for number, index in enumerate(int(i) for i in operator.outputs):
            tensor = tensors[index]
            scopes[index] = place, after.get(_text(tensor.name), scope)
            if tensor.name is None:
                word = f"{flatbuffer.operator_name(model, operator)}_{place}"
                tensor.name = f"{scope}/{word}" if number == 0 else f"{scope}/{word}_{number}"
    for index, tensor in enumerate(tensors):
        if tensor.name is None:
            tensor.name = f"constant_{index}"


def _text(name: str | bytes | None) -> str:
    return name.decode() if isinstance(name, bytes) else name or ""
