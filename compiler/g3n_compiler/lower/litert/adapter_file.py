"""An adapter as LiteRT-LM reads it: a TFLite file of tensors alone, whose bytes follow the flatbuffer.

The engine finds a tensor by its name, reads the bytes at its buffer's ``offset`` and ``size``, and takes the ``buffer``
of the metadata entry ``lora_rank``, an index, for the rank itself; so that the index is a valid one, there are as many
buffers. It maps whole pages, which must lie within the file. Source: LiteRT-LM's ``runtime/util/lora_data.cc``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from g3n_compiler.lower.litert import flatbuffer
from g3n_runtime.litert.lora import FOOTER_BYTES, PAGE, footer

RANK = "lora_rank"
VERSION = 3
"""Of TFLite's schema."""


def write_adapter_file(path: Path, tensors: Mapping[str, np.ndarray], rank: int, base: str) -> None:
    """Write float32 ``tensors`` by the names of the inputs that they fill; the same arguments give the same bytes.

    Args:
        rank: of the graph's inputs.
        base: what :func:`g3n_runtime.litert.lora.base_of` says of the bundle.
    """
    model: Any = schema.ModelT(
        version=VERSION, operatorCodes=[], signatureDefs=[], buffers=[schema.BufferT()], metadata=[], description=b""
    )
    empty = np.array([], np.int32)
    subgraph = schema.SubGraphT(tensors=[], inputs=empty, outputs=empty, operators=[], name=b"main")
    places: dict[bytes, int] = {}
    for name, value in tensors.items():
        content = np.ascontiguousarray(value, np.float32).tobytes()
        if content not in places:  # all matrices of zeros of one shape are one
            places[content] = flatbuffer.add_external_buffer(model, len(content))
        subgraph.tensors.append(
            schema.TensorT(
                name=name.encode(),
                shape=np.array(value.shape, np.int32),
                type=schema.TensorType.FLOAT32,
                buffer=places[content],
            )
        )
    model.subgraphs = [subgraph]
    model.buffers += [schema.BufferT() for _ in range(rank + 1 - len(model.buffers))]
    model.metadata = [schema.MetadataT(name=RANK.encode(), buffer=rank)]
    size = flatbuffer.place(model)
    size = -(-(size + FOOTER_BYTES) // PAGE) * PAGE - FOOTER_BYTES
    with path.open("wb") as file:
        for content, index in places.items():
            file.seek(model.buffers[index].offset)
            file.write(content)
        flatbuffer.write_header(file, model, size)
    with path.open("ab") as file:
        file.write(footer(path.read_bytes(), base))
