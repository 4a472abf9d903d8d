"""A packed model is what it was, with equal parts written once."""

from __future__ import annotations

from typing import Any

import flatbuffers

from g3n_compiler.lower.litert import flatbuffer
from tests.litert.conftest import Converted


def test_sharing_changes_the_size_only(converted: Converted) -> None:
    model = flatbuffer.parse_file(converted.parts("int4").decoder)
    plain, packed = _unshared(model), flatbuffer.pack(model)
    assert len(packed) < len(plain)
    again, whole = flatbuffer.parse(packed), flatbuffer.parse(plain)
    for shared, own in zip(again.subgraphs, whole.subgraphs, strict=True):
        assert [(t.shape.tolist(), t.type, t.buffer, t.name) for t in shared.tensors] == [
            (t.shape.tolist(), t.type, t.buffer, t.name) for t in own.tensors
        ]
        assert [(o.opcodeIndex, o.inputs.tolist(), o.outputs.tolist()) for o in shared.operators] == [
            (o.opcodeIndex, o.inputs.tolist(), o.outputs.tolist()) for o in own.operators
        ]
        assert [_scales(t) for t in shared.tensors] == [_scales(t) for t in own.tensors]
        assert [_options(o) for o in shared.operators] == [_options(o) for o in own.operators]


def test_what_has_no_name_of_its_own_is_shared(converted: Converted) -> None:
    """A tensor that is named after its layer is like no other, so that the bound is of a model without names."""
    model = flatbuffer.parse_file(converted.parts("int4").decoder)
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            tensor.name = b""
    assert len(flatbuffer.pack(model)) < 0.6 * len(_unshared(model))


def _unshared(model: Any) -> bytes:
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), flatbuffer.IDENTIFIER)
    return bytes(builder.Output())


def _scales(tensor: object) -> object:
    found = getattr(tensor.quantization, "scale", None)  # type: ignore[attr-defined]
    return None if found is None else found.tolist()


def _options(operator: object) -> object:
    options = operator.builtinOptions  # type: ignore[attr-defined]
    return None if options is None else {k: str(v) for k, v in vars(options).items()}
