"""TFLite flatbuffers as objects: parsing, packing, and constants whose bytes follow the flatbuffer.

A flatbuffer may not exceed 2 GB, and building one takes several times its size in memory. A buffer can instead give its
``offset`` and ``size`` in the file, so constants are streamed to the file and never held in memory.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from g3n_compiler.lower.signatures.text import are_streams

IDENTIFIER = b"TFL3"
OFFSET_BYTES = 4
HEADER_ALIGNMENT = 4096
"""Constants begin on a page of their own."""
BUFFER_ALIGNMENT = 64
UNPLACED = 1 << 40
"""Offset of an external buffer before it is placed. It is as wide as any real offset, so the header's size stays the
same."""
OPERATORS: dict[int, str] = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}


def parse(content: bytes | memoryview) -> Any:
    """The model object (``schema.ModelT``) of a flatbuffer; external buffers may follow the flatbuffer."""
    return schema.ModelT.InitFromPackedBuf(content, 0)


def parse_file(path: Path, offset: int = 0) -> Any:
    """:func:`parse` for the flatbuffer at byte ``offset`` of a file, without reading the external buffers."""
    return parse(np.memmap(path, np.uint8, "r", offset).data)


class _SharingBuilder(flatbuffers.Builder):
    """Writes equal vectors and strings once: a weight's scales occur in every signature, and there are few distinct
    shapes.

    :func:`_sharing` does the same for equal objects that hold them.
    """

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
    shared = copy.copy(model)
    shared.subgraphs = _sharing(model.subgraphs)
    builder.Finish(shared.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


class _Once:
    """An object that several others refer to and that is written once."""

    def __init__(self, part: Any) -> None:
        self._part, self._at = part, 0

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802 (as the parts have it)
        if not self._at:
            self._at = self._part.Pack(builder)
        return self._at


def _sharing(subgraphs: Sequence[Any]) -> list[Any]:
    """Copies of ``subgraphs`` in which equal tensors and operators are one object.

    Most inner tensors do not differ at all, and signatures of different lengths have the same operators::

        prefill_128: [t1 t2 t3] [op1 op2]        prefill_128: [t1 t1 t3] [op1 op2]
        prefill_256: [t4 t5 t6] [op3 op4]   ->   prefill_256: [t4 t4 t3] [op1 op2]
    """
    known: dict[Any, _Once] = {}

    def once(part: Any) -> Any:
        return None if part is None else known.setdefault(_content(part), _Once(part))

    def tensor(part: Any) -> Any:
        own = copy.copy(part)
        own.quantization = once(part.quantization)
        return known.setdefault(_content(part), _Once(own))

    def operator(part: Any) -> Any:
        own = copy.copy(part)
        own.builtinOptions, own.builtinOptions2 = once(part.builtinOptions), once(part.builtinOptions2)
        return known.setdefault(_content(part), _Once(own))

    copies = [copy.copy(subgraph) for subgraph in subgraphs]
    for subgraph in copies:
        subgraph.tensors = [tensor(part) for part in subgraph.tensors]
        subgraph.operators = [operator(part) for part in subgraph.operators]
    return copies


def _content(part: Any) -> Any:
    """A value that is equal for equal objects of a model."""
    if isinstance(part, np.ndarray):
        return part.dtype.str, part.tobytes()
    if isinstance(part, list | tuple):
        return tuple(_content(value) for value in part)
    return (type(part), *map(_content, vars(part).values())) if hasattr(part, "__dict__") else part


def pack_headers(model: Any, signature_groups: Sequence[Sequence[str]], alignment: int) -> tuple[bytes, list[int]]:
    """Pack several models into one blob, one for each of ``signature_groups``, with those signatures of ``model``.

    Returns:
        the blob, and where each model begins in it, a multiple of ``alignment``; every model ends where the blob ends.
        What the models share is in the blob once. Offsets of external buffers count from where their model begins;
        offsets in ``model`` count from the start of the blob.
    """
    _, begins = _pack_headers(model, signature_groups, alignment, [0] * len(signature_groups))
    # Offsets all have the same width, so where the models begin does not depend on them.
    return _pack_headers(model, signature_groups, alignment, begins)[0], begins


def _pack_headers(
    model: Any, signature_groups: Sequence[Sequence[str]], alignment: int, begins: Sequence[int]
) -> tuple[bytes, list[int]]:
    builder = _SharingBuilder()
    subgraphs, codes, metadata, inline = (
        [_Once(part) for part in parts or []]
        for parts in (_sharing(model.subgraphs), model.operatorCodes, model.metadata, model.buffers)
    )
    definitions = {d.signatureKey.decode(): d for d in model.signatureDefs}
    ends: list[int] = []
    # A flatbuffer is built from its end and refers to what follows: the first header is written last.
    for names, begin in reversed(list(zip(signature_groups, begins, strict=True))):
        head = copy.copy(model)
        chosen = [copy.copy(definitions[name]) for name in names]
        head.subgraphs = [subgraphs[d.subgraphIndex] for d in chosen]
        for index, definition in enumerate(chosen):
            definition.subgraphIndex = index
        head.signatureDefs, head.operatorCodes, head.metadata = chosen, codes, metadata
        read = {tensor.buffer for name in names for tensor in model.subgraphs[definitions[name].subgraphIndex].tensors}
        head.buffers = [
            once if b.offset <= 1 else schema.BufferT(offset=b.offset - begin, size=b.size) if i in read else inline[0]
            for i, (b, once) in enumerate(zip(model.buffers, inline, strict=True))
        ]
        root = head.Pack(builder)
        builder.Pad(-(builder.Offset() + 2 * OFFSET_BYTES) % alignment)
        for byte in reversed(IDENTIFIER):
            builder.Place(byte, flatbuffers.number_types.Uint8Flags)
        builder.PrependUOffsetTRelative(root)
        ends.append(builder.Offset())
    return bytes(builder.Bytes[builder.Head() :]), [ends[-1] - end for end in reversed(ends)]


def compact(model: Any) -> None:
    """Remove the converter's names of inner tensors, and the buffers of tensors that hold no constant.

    A signature's inputs and outputs keep their names, and so do the streams between layers, which :mod:`.partial_model`
    looks up.
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
    """Name of an operator's builtin code, for example ``FULLY_CONNECTED``."""
    return OPERATORS[model.operatorCodes[operator.opcodeIndex].builtinCode]


def operator_code(model: Any, builtin: int, version: int) -> int:
    """Index of the operator code of ``builtin`` with ``version``; it is added if the model lacks it."""
    for i, code in enumerate(model.operatorCodes):
        if (code.builtinCode, code.version) == (builtin, version):
            return i
    # Codes above 127 do not fit into the field that old readers use.
    deprecated = min(builtin, schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES)
    model.operatorCodes.append(
        schema.OperatorCodeT(builtinCode=builtin, deprecatedBuiltinCode=deprecated, version=version)
    )
    return len(model.operatorCodes) - 1


def add_external_buffer(model: Any, nbytes: int) -> int:
    """Index of a new buffer of ``nbytes`` outside the flatbuffer; :func:`place` sets its offset."""
    model.buffers.append(schema.BufferT(offset=UNPLACED, size=nbytes))
    return len(model.buffers) - 1


def external_buffers(model: Any) -> list[Any]:
    return [b for b in model.buffers if b.offset > 1]


def place(model: Any, room: int = 0) -> int:
    """Set the external buffers' offsets, in order, and return the size of the whole file in bytes.

    At least ``room`` bytes are left in front of them.
    """
    position = _align(max(len(pack(model)), room), HEADER_ALIGNMENT)
    for buffer in external_buffers(model):
        buffer.offset = _align(position, BUFFER_ALIGNMENT)
        position = buffer.offset + buffer.size
    return position


def write_header(file: IO[bytes], model: Any, size: int) -> None:
    """Write the flatbuffer in front of the constants and set the file's ``size``.

    Quantization scales may have changed since :func:`place`, but their lengths may not: the header must end before the
    first constant.
    """
    header = pack(model)
    first = min((b.offset for b in external_buffers(model)), default=size)
    if len(header) > first:
        raise AssertionError(
            f"the flatbuffer grew to {len(header)} bytes after it was placed, but only {first} are free"
        )
    file.seek(0)
    file.write(header)
    file.truncate(max(size, len(header)))


def _align(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
