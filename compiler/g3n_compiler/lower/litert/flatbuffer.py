"""TFLite flatbuffers as objects: parsing, packing, and constants whose bytes lie behind the flatbuffer.

A flatbuffer may not exceed 2 GB, and building one takes several times its size in memory. A buffer may instead give
an ``offset`` and ``size`` in the file, so the constants are streamed to the file and never held.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from g3n_compiler.trace.signatures import are_streams

IDENTIFIER = b"TFL3"
HEADER_ALIGNMENT = 4096
"""The constants begin on a page of their own."""
BUFFER_ALIGNMENT = 64
UNPLACED = 1 << 40
"""Offset of an external buffer until it is placed: as wide as any real one, so that the header's size stands."""
OPERATORS: dict[int, str] = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}


def parse(content: bytes | memoryview) -> Any:
    """The model object (``schema.ModelT``) of a flatbuffer, which may be followed by external buffers."""
    return schema.ModelT.InitFromPackedBuf(content, 0)


def parse_file(path: Path, offset: int = 0) -> Any:
    """As :func:`parse` of what begins at byte ``offset`` of a file, without reading the external buffers."""
    return parse(np.memmap(path, np.uint8, "r", offset).data)


class _SharingBuilder(flatbuffers.Builder):
    """Writes equal vectors and strings once: a weight's scales come in every signature, and shapes are few."""

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self._vectors: dict[tuple[str, bytes], int] = {}
        self._strings: dict[str | bytes, int] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:  # noqa: N802 (the base's name)
        key = x.dtype.str, x.tobytes()
        if key not in self._vectors:
            self._vectors[key] = super().CreateNumpyVector(x)
        return self._vectors[key]

    def CreateString(self, s: str | bytes, encoding: str = "utf-8", errors: str = "strict") -> int:  # noqa: N802
        if s not in self._strings:
            self._strings[s] = super().CreateString(s, encoding, errors)
        return self._strings[s]


def pack(model: Any) -> bytes:
    builder = _SharingBuilder()
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def compact(model: Any) -> None:
    """Take out what no runtime reads: names of inner tensors, and the buffers of tensors that hold no constant.

    Names that begin or end a signature stay, and those of the streams between layers, where a graph is cut.
    """
    tensors = [tensor for subgraph in model.subgraphs for tensor in subgraph.tensors]
    for subgraph in model.subgraphs:
        ends = {int(i) for i in (*subgraph.inputs, *subgraph.outputs)}
        for index, tensor in enumerate(subgraph.tensors):
            if index not in ends and not are_streams((tensor.name or b"").decode()):
                tensor.name = None
    metadata = model.metadata or []
    read = {user.buffer for user in (*tensors, *metadata) if _holds_bytes(model.buffers[user.buffer])}
    kept = [0, *sorted(read - {0})]
    places = {old: new for new, old in enumerate(kept)}
    for user in (*tensors, *metadata):
        user.buffer = places.get(user.buffer, 0)
    model.buffers = [model.buffers[i] for i in kept]


def _holds_bytes(buffer: Any) -> bool:
    return buffer.offset > 1 or (buffer.data is not None and len(buffer.data) > 0)


def operator_name(model: Any, operator: Any) -> str:
    """Name of an operator's builtin code, such as ``FULLY_CONNECTED``."""
    return OPERATORS[model.operatorCodes[operator.opcodeIndex].builtinCode]


def operator_code(model: Any, builtin: int, version: int) -> int:
    """Index of the operator code of ``builtin`` with ``version``, added where the model lacks it."""
    for i, code in enumerate(model.operatorCodes):
        if (code.builtinCode, code.version) == (builtin, version):
            return i
    # Codes past 127 do not fit the field that old readers look at.
    deprecated = min(builtin, schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES)
    model.operatorCodes.append(
        schema.OperatorCodeT(builtinCode=builtin, deprecatedBuiltinCode=deprecated, version=version)
    )
    return len(model.operatorCodes) - 1


def add_external_buffer(model: Any, nbytes: int) -> int:
    """Index of a new buffer of ``nbytes`` that lies outside the flatbuffer; :func:`place` gives it its offset."""
    model.buffers.append(schema.BufferT(offset=UNPLACED, size=nbytes))
    return len(model.buffers) - 1


def external_buffers(model: Any) -> list[Any]:
    return [b for b in model.buffers if b.offset > 1]


def place(model: Any, room: int = 0) -> int:
    """Give the external buffers their offsets, in order, and return the size of the whole file in bytes.

    ``room`` bytes or more are left in front of them.
    """
    position = _align(max(len(pack(model)), room), HEADER_ALIGNMENT)
    for buffer in external_buffers(model):
        buffer.offset = _align(position, BUFFER_ALIGNMENT)
        position = buffer.offset + buffer.size
    return position


def write_header(file: IO[bytes], model: Any, size: int) -> None:
    """Write the flatbuffer in front of the constants and give the file its ``size``.

    Quantization scales may have changed since :func:`place`, lengths may not: the header must end before the first
    constant.
    """
    header = pack(model)
    first = min((b.offset for b in external_buffers(model)), default=size)
    if len(header) > first:
        raise AssertionError(f"the flatbuffer grew to {len(header)} bytes after it was placed, {first} are free")
    file.seek(0)
    file.write(header)
    file.truncate(max(size, len(header)))


def isolate(model: Any, signatures: Sequence[str]) -> Any:
    """The model cut down to ``signatures`` and their subgraphs, in that order; constants of others are emptied."""
    definitions = {d.signatureKey.decode(): d for d in model.signatureDefs}
    model.signatureDefs = [definitions[name] for name in signatures]
    model.subgraphs = [model.subgraphs[d.subgraphIndex] for d in model.signatureDefs]
    for index, definition in enumerate(model.signatureDefs):
        definition.subgraphIndex = index
    read = {tensor.buffer for subgraph in model.subgraphs for tensor in subgraph.tensors}
    read.update(metadata.buffer for metadata in model.metadata or [])
    for i, buffer in enumerate(model.buffers):
        if i not in read:
            buffer.data, buffer.offset, buffer.size = None, 0, 0
    return model


def _align(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
