"""What the delegate takes, as measured."""

from __future__ import annotations

from g3n_compiler.lower.litert import flatbuffer
from g3n_compiler.lower.litert.delegation import Operator, measure, operators_by_signature, summarize
from tests.litert.conftest import CACHE, PREFILL, Converted


def test_the_core_is_delegated(converted: Converted) -> None:
    path = converted.parts("int4").decoder
    model = flatbuffer.parse_file(path)
    by_signature = operators_by_signature(path)
    counts = {d.signatureKey.decode(): len(model.subgraphs[d.subgraphIndex].operators) for d in model.signatureDefs}
    assert {name: len(operators) for name, operators in by_signature.items()} == counts
    for name, operators in by_signature.items():
        delegation = summarize(operators)
        assert delegation.flop_share > 0.99, (name, delegation)
        assert not {"FULLY_CONNECTED", "BATCH_MATMUL", "SOFTMAX", "MUL"} & delegation.fallbacks.keys()
        assert delegation.fallbacks["DYNAMIC_UPDATE_SLICE"] == (2 if name != "decode" else 6)
        assert delegation.delegated_ops + sum(delegation.fallbacks.values()) == delegation.total_ops
    whole = measure(path)
    assert whole.total_ops == sum(counts.values())
    assert 0.9 < whole.op_share < 1


def test_flops_of_linears(converted: Converted) -> None:
    config = converted.config
    largest = {
        name: max(op.flops for op in operators if op.name == "FULLY_CONNECTED")
        for name, operators in operators_by_signature(converted.parts("fp32").decoder).items()
    }
    assert largest["decode"] == 2 * config.hidden_size * config.vocab_size
    assert largest[f"prefill_{PREFILL}"] == 2 * PREFILL * config.hidden_size * config.ffn_dims[0]


def test_flops_of_attention_and_altup(converted: Converted) -> None:
    config = converted.config
    products = [
        op.flops
        for op in operators_by_signature(converted.parts("fp32").decoder)["decode"]
        if op.name == "BATCH_MATMUL"
    ]
    seen = sorted(config.cache_length(config.kv_owner(i), CACHE) for i in range(config.num_layers))
    attention = [2 * config.num_heads * config.head_dim * n for n in seen for _ in range(2)]
    streams = config.altup_num_inputs
    altup = [2 * streams * mixed * config.hidden_size for mixed in (streams, 2) for _ in range(config.num_layers)]
    assert sorted(products) == sorted(attention + altup)


def test_a_table_lookup_falls_back(converted: Converted) -> None:
    delegation = measure(converted.parts("int8").embedder)
    assert delegation.fallbacks["EMBEDDING_LOOKUP"] == 1
    assert delegation.flop_share == 0


def test_shares_are_of_operators_and_of_flops() -> None:
    operators = [Operator("FULLY_CONNECTED", 90, True), Operator("CAST", 10, False), Operator("CAST", 0, False)]
    delegation = summarize(operators)
    assert (delegation.delegated_ops, delegation.total_ops, delegation.fallbacks) == (1, 3, {"CAST": 2})
    assert (delegation.op_share, delegation.flop_share) == (1 / 3, 0.9)
