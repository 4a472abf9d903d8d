"""A bound model run layer by layer: each layer is held against the reference, and a fault is named by its layer."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from g3n_compiler.errors import TargetError
from g3n_compiler.lower.litert import flatbuffer
from g3n_compiler.lower.litert.layers import LayeredDecoder
from g3n_compiler.lower.litert.partial_model import CpuPart, PartialModel
from g3n_compiler.lower.signatures.text import DECODE, are_streams, streams_name
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.verify.accelerator import one_of_each_kind
from g3n_compiler.verify.checks import EXACT, relative_error
from g3n_compiler.verify.layers import REACH, TYPICAL, LayerErrors, layer_errors
from g3n_compiler.verify.reference import Reference
from g3n_compiler.verify.text import SAME
from g3n_runtime.litert.model import LiteRtTables
from tests.litert.conftest import Converted

TOKENS = 60
PROMPT = 50


class Model:
    """The tables of a recipe, and a decoder to be cut."""

    def __init__(self, converted: Converted, recipe: str, decoder: Path) -> None:
        parts = converted.parts(recipe)
        tables = LiteRtTables(parts.embedder, parts.per_layer_embedder)
        self.embeddings, self.ple = tables.embeddings, tables.ple
        self.run = LayeredDecoder(decoder, converted.config).run


def run(converted: Converted, recipe: str, decoder: Path, ids: list[int], limit: float = math.inf) -> LayerErrors:
    reference = Reference(converted.source, RECIPES[recipe])
    return layer_errors(reference, Model(converted, recipe, decoder), ids, PROMPT, limit)


@pytest.fixture
def decoder(converted: Converted, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a recipe's decoder, to be cut."""

    def copy(recipe: str) -> Path:
        return shutil.copy(converted.parts(recipe).decoder, tmp_path / "decoder.tflite")

    return copy


@pytest.mark.parametrize("recipe", ["fp32", "int8", "int4"])
def test_each_layer_equals_the_reference_and_the_whole_equals_its_layers(
    converted: Converted, decoder: Callable[[str], Path], ids: Callable[[int], list[int]], recipe: str
) -> None:
    errors = run(converted, recipe, decoder(recipe), ids(TOKENS))
    assert errors.worst <= (EXACT if recipe == "fp32" else RECIPES[recipe].layer_tolerance)
    whole = converted.model(recipe).prefilled_logits(ids(TOKENS), PROMPT)
    assert relative_error(whole, errors.logits) <= SAME


@pytest.mark.parametrize("layer", [1, 4])
def test_a_fault_is_named_by_its_layer(
    converted: Converted, decoder: Callable[[str], Path], ids: Callable[[int], list[int]], layer: int
) -> None:
    path = decoder("int4")
    model = flatbuffer.parse_file(path)
    shape = (64, 128)  # hidden by FFN width, which is also that of o_proj: two to a layer, in the order of use
    buffers = sorted(
        {
            model.buffers[t.buffer].offset
            for subgraph in model.subgraphs
            for t in subgraph.tensors
            if tuple(t.shape) == shape and model.buffers[t.buffer].offset > 1
        }
    )
    with path.open("r+b") as file:  # the FFN's last rows change their sign, one layer only
        file.seek(buffers[2 * layer + 1] + 32 * 64)
        values = np.frombuffer(file.read(32 * 64), np.uint8)
        file.seek(buffers[2 * layer + 1] + 32 * 64)
        file.write(((-values & 0xF) | (-(values >> 4) << 4 & 0xF0)).astype(np.uint8).tobytes())
    limit = RECIPES["int4"].layer_tolerance
    errors = run(converted, "int4", path, ids(TOKENS), limit)
    assert [part.name for part in errors.sensitive] == [f"layer {layer}"]
    (faulty,) = errors.sensitive
    assert faulty.own is not None and faulty.worst > REACH * faulty.own and faulty.median > TYPICAL * limit
    assert errors.steady.worst <= limit


def test_another_device_runs_the_layers_that_it_is_given_and_the_head(
    converted: Converted, decoder: Callable[[str], Path], ids: Callable[[int], list[int]]
) -> None:
    asked: list[set[str]] = []

    class Recorded(CpuPart):
        def __call__(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            out = super().__call__(values)
            asked.append(set(out))
            return out

    only = one_of_each_kind(converted.config)
    model, reference = Model(converted, "int4", decoder("int4")), Reference(converted.source, RECIPES["int4"])
    model.run = LayeredDecoder(decoder("int4"), converted.config, opener=Recorded, only=only).run
    errors = layer_errors(reference, model, ids(TOKENS), PROMPT, only=only)
    assert {name for out in asked for name in out if are_streams(name)} == {streams_name(i) for i in only}
    assert any("logits" in out for out in asked) and any("kv_cache_k_0" in out for out in asked)
    assert errors.worst <= RECIPES["int4"].layer_tolerance
    assert relative_error(errors.logits, run(converted, "int4", decoder("int4"), ids(TOKENS)).logits) <= SAME


def test_streams_between_layers_are_not_outputs_of_what_ships(converted: Converted) -> None:
    model = flatbuffer.parse_file(converted.parts("int4").decoder)
    assert not any(are_streams(t.name.decode()) for d in model.signatureDefs for t in d.outputs)
    tensors = model.subgraphs[model.signatureDefs[-1].subgraphIndex].tensors
    kept = {t.name.decode() for t in tensors if t.name is not None}
    assert streams_name(0) in kept


def test_a_piece_of_no_such_tensor_is_refused(decoder: Callable[[str], Path]) -> None:
    with pytest.raises(TargetError, match="layer_9_streams"):
        PartialModel(decoder("int4")).partial(DECODE, [], [streams_name(9)])
