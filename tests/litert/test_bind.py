"""Weights bound behind the flatbuffer: whole, once, and the same at every run."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from g3n_compiler.errors import NotFinite, TargetError
from g3n_compiler.lower.litert import flatbuffer
from g3n_compiler.lower.litert import stream_weights as stream
from g3n_compiler.lower.litert.bind_weights import bind
from g3n_compiler.models.registry import text_weights
from g3n_compiler.models.weights import WeightSpec
from g3n_compiler.quantize.recipe import INT8, RECIPES
from g3n_compiler.quantize.rows import pack_rows, quantize_rows
from tests.litert.conftest import WIDTHS, Converted


@pytest.mark.parametrize("recipe", ["fp32", "int8", "int4", "int2"])
def test_every_weight_lies_in_the_file_once(converted: Converted, tmp_path: Path, recipe: str) -> None:
    specs, chosen, path = text_weights(converted.config), WIDTHS[recipe], tmp_path / "bound.tflite"
    bound = bind(converted.graph, specs, chosen, converted.source.read, path)
    content = path.read_bytes()
    assert [b.name for b in bound] == list(specs)
    for weight, after in zip(bound, [*bound[1:], None], strict=True):
        scheme, value = chosen.scheme(specs[weight.name]), converted.source.read(specs[weight.name])
        raw = value.numpy() if scheme.bits == 32 else pack_rows(quantize_rows(value, scheme), scheme).numpy()
        assert content[weight.offset : weight.offset + weight.nbytes] == raw.tobytes(), weight.name
        assert weight.scheme == scheme.label
        if after is not None:
            assert weight.offset + weight.nbytes <= after.offset < weight.offset + weight.nbytes + 64
    assert len(content) == bound[-1].offset + bound[-1].nbytes


def test_the_same_input_gives_the_same_bytes(
    converted: Converted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = set()
    for block in (stream.BLOCK_BYTES, 1000):
        monkeypatch.setattr(stream, "BLOCK_BYTES", block)
        path = tmp_path / f"{block}.tflite"
        bind(converted.graph, text_weights(converted.config), RECIPES["int8"], converted.source.read, path)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_weight_inputs_are_gone_and_linears_marked_hybrid(converted: Converted) -> None:
    model = flatbuffer.parse_file(converted.parts("int8").decoder)
    for definition in model.signatureDefs:
        assert not [t.name for t in definition.inputs if t.name.startswith(b"w_")]
    external = {i for i, buffer in enumerate(model.buffers) if buffer.offset > 1}
    hybrid = 0
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            weights = [t for t in operator.inputs if t >= 0 and subgraph.tensors[t].buffer in external]
            if any(subgraph.tensors[t].quantization.scale is not None for t in weights):
                assert flatbuffer.operator_name(model, operator) == "FULLY_CONNECTED"
                assert operator.builtinOptions.asymmetricQuantizeInputs
                hybrid += 1
    assert hybrid > 60


def test_inner_tensors_are_named_after_their_layer(converted: Converted) -> None:
    model = flatbuffer.parse_file(converted.parts("int8").decoder)
    specs, layers = text_weights(converted.config), converted.config.num_layers
    for subgraph in model.subgraphs:
        names = [tensor.name.decode() for tensor in subgraph.tensors]
        assert len(set(names)) == len(names)
        weights = {n for n, t in zip(names, subgraph.tensors, strict=True) if model.buffers[t.buffer].offset > 1}
        assert weights <= specs.keys() and len(weights) > 50
        reached = 0
        for operator in subgraph.operators:
            read, made = [names[i] for i in operator.inputs if i >= 0], names[operator.outputs[0]]
            for weight in weights.intersection(read):
                assert made.startswith(f"{weight}/") or made.endswith(("_streams", "_output", "logits")), made
            if "layer_0_streams" in read:
                assert made.startswith("layers.1"), made
                reached += 1
        assert reached
        if "logits" in names:
            assert not [name for name in names if name.startswith(f"layers.{layers}")]
            assert any(name.startswith("head/") for name in names)


def test_a_nan_names_its_tensor(converted: Converted, tmp_path: Path) -> None:
    def read(spec: WeightSpec, rows: tuple[int, int] | None = None) -> Tensor:
        value = converted.source.read(spec, rows).clone()
        if spec.name == "layers.1.mlp.up_proj":
            value[-1, -1] = torch.inf
        return value

    with pytest.raises(NotFinite, match=r"layers\.1\.mlp\.up_proj\.weight"):
        bind(converted.graph, text_weights(converted.config), RECIPES["int4"], read, tmp_path / "bound.tflite")


def test_a_weight_that_no_signature_reads_is_refused(converted: Converted, tmp_path: Path) -> None:
    specs = text_weights(converted.config)
    specs["layers.9.extra"] = WeightSpec("layers.9.extra", (4, 4), "linear", "layers.9.extra.weight")
    with pytest.raises(TargetError, match=r"layers\.9\.extra"):
        bind(converted.graph, specs, RECIPES["fp32"], converted.source.read, tmp_path / "bound.tflite")


def test_a_weight_that_is_no_matrix_cannot_be_quantised() -> None:
    gain = WeightSpec("norm", (64,), "linear", "norm.weight")
    with pytest.raises(TargetError, match="only a matrix"):
        stream.check_scheme(gain, INT8)
