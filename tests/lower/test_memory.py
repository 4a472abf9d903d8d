"""The ledger against what was measured, and what each of its parts follows."""

from __future__ import annotations

import dataclasses

import pytest

from g3n_compiler.cli.bench import _foreseen
from g3n_compiler.lower.artifact import LoweredSubgraph
from g3n_compiler.lower.executorch import memory as executorch
from g3n_compiler.lower.litert import memory as litert
from g3n_compiler.lower.memory import kv_bytes
from g3n_compiler.models.gemma3n.text_config import TextConfig, gemma3n_config
from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.source import TEXT, Source
from tests.conftest import TinyModel

MIB = 1 << 20


@pytest.fixture
def e2b(tiny: TinyModel) -> TextConfig:
    return dataclasses.replace(
        tiny.open().text,
        vocab_size=262400,
        hidden_size=2048,
        num_layers=30,
        num_kv_shared_layers=10,
        layer_types=(*["sliding_attention"] * 4, "full_attention") * 6,
        ffn_dims=(8192,) * 30,
        num_heads=8,
        num_kv_heads=2,
        head_dim=256,
        sliding_window=512,
        ple_dim=256,
    )


def test_kv_bytes_are_those_of_the_rings_and_the_context(e2b: TextConfig) -> None:
    assert [kv_bytes(e2b, context) // MIB for context in (4096, 32768)] == [96, 544]


@pytest.mark.parametrize(
    ("ffn", "layers", "shared", "core", "first", "later", "cache", "device"),
    [
        (8192, 30, 10, 1_529_606_528, 2_560_970_976, 2_011_414_528, 1_536_702_648, 6),
        (16384, 35, 15, 2_569_825_216, 3_640_889_344, 3_092_152_320, 2_582_658_664, 8),
    ],
    ids=["E2B", "E4B"],
)
def test_predicts_what_litert_took(
    e2b: TextConfig, ffn: int, layers: int, shared: int, core: int, first: int, later: int, cache: int, device: int
) -> None:
    """``g3n-bench`` of random weights, 1,024 tokens of prompt and 256 generated, less Python's 39 MB."""
    config = dataclasses.replace(
        e2b,
        num_layers=layers,
        num_kv_shared_layers=shared,
        layer_types=((*["sliding_attention"] * 4, "full_attention") * 7)[:layers],
        ffn_dims=(ffn,) * layers,
    )
    part = LoweredSubgraph("core", "litert", "", "", core, (), None)
    ledger = litert.memory_ledger(config, RECIPES["int4"], 4096, 256, [part])
    assert ledger["peak"]["prefill"] == pytest.approx(later, rel=0.05)
    assert ledger["first_run"]["peak"] == pytest.approx(first, rel=0.05)
    assert ledger["first_run"]["cache"] == pytest.approx(cache, rel=0.01)
    assert ledger["least_device_ram"] == device << 30


def test_predicts_what_the_engine_took_of_a_gpu() -> None:
    """``benchmarks/gpu_meter.py`` of nano, int4, context 4096, prefills of 128 and 256: 62.9 MB of device memory."""
    config = gemma3n_config(Source.open(checkpoint_dir(), modalities=(TEXT,)).text)
    core = LoweredSubgraph("core", "litert", "", "", 2_412_000, ("prefill_128", "prefill_256", "decode"), None)
    ledger = litert.memory_ledger(config, RECIPES["int4"], 4096, 256, [core])
    held = ledger["phases"]["gpu"]
    assert held["gpu_weights"] == core.nbytes and held["gpu_kv_cache"] == 2 * kv_bytes(config, 4096)
    assert sum(n for name, n in held.items() if name.startswith("gpu_")) == pytest.approx(62.9e6, rel=0.05)
    assert _foreseen(ledger, "later", "gpu") == sum(held.values()) != _foreseen(ledger, "later", "cpu")
    del ledger["phases"]
    assert _foreseen(ledger, "first", "gpu") is None


def test_an_adapter_is_counted(e2b: TextConfig) -> None:
    """Of rank 16, E2B has 5.6 million numbers in them, 22 MB: in the engine, and in the file."""
    part = LoweredSubgraph("core", "litert", "", "", 1_530_000_000, (), None)
    without, ledger = (litert.memory_ledger(e2b, RECIPES["int4"], 4096, 256, [part], rank) for rank in (0, 16))
    adapter = next(p["bytes"] for p in ledger["parts"] if p["name"] == "adapter")
    assert adapter == pytest.approx(2 * 22.4e6, rel=0.02)
    for phase, peak in without["peak"].items():
        assert ledger["peak"][phase] == peak + adapter
    assert ledger["first_run"]["peak"] == without["first_run"]["peak"] + adapter


def test_predicts_what_executorch_took_of_e2b(e2b: TextConfig) -> None:
    core = LoweredSubgraph("core", "executorch", "", "", 987_871_616, (), None)
    ledger = executorch.memory_ledger(e2b, RECIPES["int4"], 4096, 256, [core])
    # Its 3.549 GB less Python's; the head is not in the core's file, and packed all the same.
    assert max(ledger["peak"].values()) == ledger["peak"]["load"] == pytest.approx(2.783e9, rel=0.1)
    assert "first_run" not in ledger
