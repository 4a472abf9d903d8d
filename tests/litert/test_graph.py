"""The traced signatures: what they take, and which layers they run."""

from __future__ import annotations

import pytest
import torch

from g3n_compiler.errors import ContextError
from g3n_compiler.lower.litert import flatbuffer
from g3n_compiler.lower.litert.text import LiteRtOps, convert
from g3n_compiler.lower.signatures.cache import TorchOps
from g3n_compiler.lower.signatures.text import Prefill, are_streams, signatures, trace, used_weights
from g3n_compiler.models.registry import text_weights
from tests.litert.conftest import CONTEXT, PREFILL, Converted


def inputs_of(program: torch.export.ExportedProgram) -> set[str]:
    return {node.name for node in program.graph.nodes if node.op == "placeholder"}


def test_prefill_runs_the_owning_layers_only(converted: Converted) -> None:
    programs = trace(converted.config, CONTEXT, [PREFILL], LiteRtOps())
    assert list(programs) == ["prefill_24", "decode"]
    weights = {name: {w for w in inputs_of(p) if w.startswith("w_")} for name, p in programs.items()}
    assert weights["decode"] == {s.input_name for s in text_weights(converted.config).values()}
    assert not {w for w in weights["prefill_24"] if w.startswith(("w_layers_3", "w_layers_4", "w_lm_head", "w_norm"))}
    last = {w.removeprefix("w_layers_2_") for w in weights["prefill_24"] if w.startswith("w_layers_2_")}
    assert last == {
        "altup_router_norm", "altup_modality_router", "altup_prediction_coefs",
        "input_layernorm", "self_attn_k_proj", "self_attn_k_norm", "self_attn_v_proj",
    }  # fmt: skip
    linear = torch.ops.aten.linear.default
    linears = {n: sum(node.target is linear for node in p.graph.nodes) for n, p in programs.items()}
    # Three fan-outs; per whole layer: routing 4, attention 4 (2 where shared), LAUREL 2, FFN 3, PLE 3; decode has the
    # unembedding and the head as well, prefill the last layer's routing, keys and values.
    assert linears == {"prefill_24": 3 + 2 * 16 + 4, "decode": 3 + 3 * 16 + 2 * 14 + 4}


def test_the_flatbuffer_has_the_engines_signatures(converted: Converted) -> None:
    model = flatbuffer.parse(converted.graph)
    caches = {f"kv_cache_{letter}_{i}" for letter in "kv" for i in range(3)}
    found = {d.signatureKey.decode(): d for d in model.signatureDefs}
    assert set(found) == {"prefill_24", "decode"}
    for name, definition in found.items():
        inputs = {t.name.decode() for t in definition.inputs}
        runtime = {t for t in inputs if not t.startswith("w_")}
        assert runtime == {"embeddings", "per_layer_embeddings", "input_pos", "mask"} | caches
        outputs = {t.name.decode() for t in definition.outputs if not are_streams(t.name.decode())}
        assert outputs == (caches | {"logits"} if name == "decode" else caches)


def test_a_graph_holds_no_weights(converted: Converted) -> None:
    weights = sum(torch.Size(s.shape).numel() * 4 for s in text_weights(converted.config).values())
    assert len(converted.graph) < weights / 3


def test_used_weights_need_no_weight_memory(converted: Converted) -> None:
    module, length = signatures(converted.config, [PREFILL], TorchOps())["prefill_24"]
    assert isinstance(module, Prefill)
    used = used_weights(module, CONTEXT, length)
    assert "layers.1.mlp.up_proj" in used
    assert "layers.2.mlp.up_proj" not in used


@pytest.mark.parametrize(("context", "lengths"), [(0, [1]), (100_000, [24]), (64, []), (64, [65]), (64, [0])])
def test_lengths_that_do_not_fit_are_refused(converted: Converted, context: int, lengths: list[int]) -> None:
    with pytest.raises(ContextError):
        convert(converted.config, context, lengths)
