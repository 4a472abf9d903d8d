"""The static check of operators: nano's graphs pass it, and what the GPU delegate refuses does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from g3n_compiler.compile import compile_bundle
from g3n_compiler.errors import TargetError
from g3n_compiler.lower.litert import flatbuffer, text
from g3n_compiler.lower.litert.batch_axis import restore_batch_axis
from g3n_compiler.lower.litert.dialect import LiteRtDecoder
from g3n_compiler.lower.litert.gpu_operators import forms, require_gpu_operators
from g3n_compiler.models.family import State, Streams
from g3n_compiler.models.registry import text_weights
from g3n_compiler.request.options import CompileOptions
from tests.litert.conftest import Converted


class BroadcastingDecoder(LiteRtDecoder):
    """With the constant of ones of an earlier version, which became BROADCAST_TO."""

    def advance(self, i: int, predicted: Streams, activated: Tensor, state: State) -> Streams:
        streams = super().advance(i, predicted, activated, state)
        assert isinstance(streams, Tensor)
        passive = torch.ones(1, streams.shape[1], streams.shape[2], 1)
        passive[:, :, 0] = 0
        return torch.cat((streams[..., :-1], passive), 3)


def weights_of(converted: Converted) -> set[str]:
    return {spec.input_name for spec in text_weights(converted.config).values()}


def test_nanos_operators_are_taken(converted: Converted) -> None:
    require_gpu_operators(converted.graph, weights_of(converted), "the text model")


def test_no_product_has_tokens_for_its_batch(converted: Converted) -> None:
    """The delegate computes those wrongly or refuses the graph, and the list would not have them."""
    for found in forms(flatbuffer.parse(converted.graph), weights_of(converted)).values():
        products = [form for form in found if form.operator in ("FULLY_CONNECTED", "BATCH_MATMUL")]
        assert products and not [str(form) for form in products if "*" in form.inputs + form.outputs]


def test_a_dropped_axis_is_seen(converted: Converted) -> None:
    model = flatbuffer.parse(converted.graph)
    subgraph = model.subgraphs[model.signatureDefs[0].subgraphIndex]
    linear = next(o for o in subgraph.operators if flatbuffer.operator_name(model, o) == "FULLY_CONNECTED")
    subgraph.tensors[linear.outputs[0]].shape = subgraph.tensors[linear.outputs[0]].shape[1:]
    graph = flatbuffer.pack(model)
    with pytest.raises(TargetError, match=r"1 times FULLY_CONNECTED \(float32:3 w.*\) -> \(float32:2\*\)"):
        require_gpu_operators(graph, weights_of(converted), "the text model")
    restore_batch_axis(model)
    require_gpu_operators(flatbuffer.pack(model), weights_of(converted), "the text model")


def test_an_operator_that_is_put_back_is_named_and_leaves_no_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "LiteRtDecoder", BroadcastingDecoder)
    steps: list[str] = []
    out = tmp_path / "bundle"
    options = CompileOptions(
        "pixel", "nano", context=64, prefill_lengths=(16,), modalities=("text",), out=out, recipe="int8"
    )
    with pytest.raises(TargetError, match=r"BROADCAST_TO.*prefill_16"):
        compile_bundle(options, steps.append)
    assert not out.exists()
    assert not any("quantising" in step for step in steps)
