"""A new backend is a class and one line of the registry: nothing else asks which runtime it has before it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from g3n_compiler.compile import compile_bundle
from g3n_compiler.errors import TargetError
from g3n_compiler.lower.artifact import Lowered, LoweredSubgraph
from g3n_compiler.lower.job import Job
from g3n_compiler.lower.registry import BACKENDS
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.request.options import CompileOptions
from g3n_compiler.targets import CPU, ROWS, TARGETS, Target
from g3n_runtime.bundle import MANIFEST, open_bundle
from tests.conftest import TinyModel, make_tiny
from tests.fakes import FakeBackend

PEAK = 123_456_789


class ToyBackend(FakeBackend):
    """Lowers to a plain file, and has facts of its own."""

    packages = ("numpy",)
    narrowest = 4
    only_one_size = "Toy bundles hold one size"

    def __init__(self) -> None:
        super().__init__("toy")
        self.seen: list[str] = []

    def compile_memory(self, config: TextConfig, recipe: Recipe) -> int:
        return 1000

    def memory_ledger(
        self,
        config: TextConfig,
        recipe: Recipe,
        context: int,
        prefill: int,
        subgraphs: Sequence[LoweredSubgraph],
        lora_rank: int = 0,
    ) -> dict[str, Any]:
        ledger = super().memory_ledger(config, recipe, context, prefill, subgraphs, lora_rank)
        return ledger | {"peak": dict.fromkeys(ledger["peak"], PEAK)}

    def lower(self, job: Job) -> Lowered:
        self.seen.append(job.target.name)
        return super().lower(job)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """Smaller than the others' model: every comparison is made."""
    return make_tiny(
        tmp_path_factory.mktemp("toy"),
        num_hidden_layers=3,
        num_kv_shared_layers=1,
        activation_sparsity_pattern=[0.0] * 3,
        layer_types=["sliding_attention", "full_attention", "full_attention"],
    )


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ToyBackend:
    """The one line, and a device that runs it."""
    made = ToyBackend()
    monkeypatch.setitem(BACKENDS, "toy", lambda: made)
    device = Target("toy-phone", "a toy", ("toy",), {"core": CPU, "token_embedding": ROWS, "per_layer_embedding": ROWS})
    monkeypatch.setitem(TARGETS, "toy-phone", device)
    return made


def options(tiny: TinyModel, out: Path, **fields: Any) -> CompileOptions:
    return CompileOptions(
        target="toy-phone", checkpoint=tiny.directory, context=64, prefill_lengths=(16,), out=out, **fields
    )


def test_it_compiles_proves_and_opens(tiny: TinyModel, backend: ToyBackend, tmp_path: Path) -> None:
    bundle = open_bundle(compile_bundle(options(tiny, tmp_path / "bundle"), lambda line: None))
    assert bundle.runtimes == ("toy",) and backend.seen == ["toy-phone"]
    manifest = json.loads((tmp_path / "bundle" / MANIFEST).read_text(encoding="utf-8"))
    assert set(manifest["memory"]) == {"toy"} and set(manifest["memory"]["toy"]["peak"].values()) == {PEAK}
    assert {check["runtime"] for check in manifest["parity"]["checks"]} == {"eager", "onnxruntime", "toy"}


def test_what_it_cannot_do_is_refused_in_its_own_words(tiny: TinyModel, backend: ToyBackend, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="Toy bundles hold one size: leave --elastic out"):
        compile_bundle(options(tiny, tmp_path / "bundle", elastic=("full", "half")), lambda line: None)


def test_a_target_without_a_place_for_a_subgraph_is_refused(
    tiny: TinyModel, backend: ToyBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(TARGETS, "toy-phone", Target("toy-phone", "a toy", ("toy",), {"core": CPU}))
    with pytest.raises(TargetError, match="does not say where the subgraph token_embedding runs"):
        compile_bundle(options(tiny, tmp_path / "bundle"), lambda line: None)
    assert not (tmp_path / "bundle").exists()
