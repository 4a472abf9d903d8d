"""TFLite flatbuffers as objects: parsing, packing, and constants whose bytes lie behind the flatbuffer.

A flatbuffer may not exceed 2 GB, and building one takes several times its size in memory. A buffer may instead give
an ``offset`` and ``size`` in the file, so the constants are streamed to the file and never held.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

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


def pack(model: Any) -> bytes:
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


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


def isolate(model: Any, signature: str) -> Any:
    """The model cut down to one signature, its subgraph first; constants that only others read are emptied."""
    definition = next(d for d in model.signatureDefs if d.signatureKey.decode() == signature)
    subgraph = model.subgraphs[definition.subgraphIndex]
    model.subgraphs = [subgraph]
    definition.subgraphIndex = 0
    model.signatureDefs = [definition]
    read = {tensor.buffer for tensor in subgraph.tensors}
    for i, buffer in enumerate(model.buffers):
        if i not in read:
            buffer.data, buffer.offset, buffer.size = None, 0, 0
    return model


def _align(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
