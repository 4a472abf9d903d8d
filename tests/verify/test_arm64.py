"""What decides about parity on Arm, without an emulator; the real comparison is in ``android_app/tests``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from g3n_compiler.cli.verify import main
from g3n_compiler.errors import EngineError
from g3n_compiler.lower.arm64_kit import ArmKit, Outputs
from g3n_compiler.lower.executorch.arm64 import _prefill_lines
from g3n_compiler.lower.litert.arm64 import read_answers
from g3n_compiler.quantize.recipe import get_recipe
from g3n_compiler.verify import arm64
from g3n_compiler.verify.golden import GENERATED, Golden
from tests.android.short import write_short_bundle

GOLDEN = [Golden("chat", (2, 3, 4), 2), Golden("beyond", (2, 5, 6, 7), 3)]
VOCABULARY = 50


class TableModel:
    """Logits that depend on nothing but the last token."""

    def __init__(self) -> None:
        self._table = np.random.default_rng(0).normal(size=(VOCABULARY, VOCABULARY)).astype(np.float32)

    def logits(self, ids: Any) -> np.ndarray:
        return self._table[np.asarray(ids)]

    def prefilled_logits(self, ids: Any, prompt: int) -> np.ndarray:
        return self.logits(ids)[prompt - 1 :]

    def greedy(self, ids: Any, count: int) -> list[int]:
        out, token = [], ids[-1]
        for _ in range(count):
            token = int(self._table[token].argmax())
            out.append(token)
        return out

    def embeddings(self, ids: Any) -> np.ndarray:
        return self.logits(ids)

    ple = embeddings


@pytest.fixture
def model() -> TableModel:
    return TableModel()


@pytest.fixture
def here(model: TableModel) -> Outputs:
    return arm64._run_here(model, GOLDEN, [0, 1])


def failed(recipe: str, model: TableModel, here: Outputs, there: Outputs) -> list[str]:
    job: Any = SimpleNamespace(recipe=get_recipe(recipe))
    checks = list(arm64._checks(job, "litert", "signatures", GOLDEN, here, there, model))
    assert len(checks) == 7
    return [f"{c.subgraph} {c.name}" for c in checks if not c.passed]


def test_equal_outputs_pass(model: TableModel, here: Outputs) -> None:
    assert failed("fp32", model, here, here) == []


def test_each_output_that_differs_is_found(model: TableModel, here: Outputs) -> None:
    off = here.logits[1] + np.float32(0.01)
    assert failed("fp32", model, here, replace(here, logits=[here.logits[0], off])) == [
        "core signatures: 4 tokens decoded, beyond"
    ]
    assert failed("int4", model, here, replace(here, logits=[here.logits[0], off])) == []
    off = here.prefilled[0] * np.float32(1.5)
    assert failed("int4", model, here, replace(here, prefilled=[off, here.prefilled[1]])) == [
        "core signatures: 2 tokens prefilled, chat"
    ]
    assert here.embeddings is not None
    assert failed("int4", model, here, replace(here, embeddings=here.embeddings * 2)) == [
        "token_embedding signatures: 2 rows"
    ]
    tokens = [(here.greedy[0] + 1) % VOCABULARY, *here.greedy[1:]]
    assert failed("fp32", model, here, replace(here, greedy=tokens)) == ["core signatures: 24 greedy tokens"]
    assert failed("fp32", model, here, replace(here, greedy=here.greedy[: GENERATED - 1])) != []


def test_a_rounded_model_is_held_against_its_reference(model: TableModel, here: Outputs) -> None:
    """Two machines that are off by as much in two directions are both right; one that is off by more is not."""
    job: Any = SimpleNamespace(recipe=get_recipe("int4"))
    reach = np.float32(0.04) * here.logits[1]
    up = replace(here, logits=[here.logits[0], here.logits[1] + reach])
    down = replace(here, logits=[here.logits[0], here.logits[1] - reach])
    far = replace(here, logits=[here.logits[0], here.logits[1] - 2 * reach])

    def found(there: Outputs) -> list[str]:
        checks = arm64._checks(job, "litert", "signatures", GOLDEN, up, there, model, here.logits)
        return [c.name for c in checks if not c.passed]

    assert found(down) == []
    assert found(far) == ["signatures: 4 tokens decoded, beyond"]
    assert [c.reference for c in arm64._checks(job, "litert", "s", GOLDEN, up, up, model, here.logits)][:4] == [
        "fake-quant int4"
    ] * 4


def test_a_kit_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"make arm64-kit"):
        ArmKit(tmp_path)


def test_a_program_that_fails_under_the_emulator_is_told(tmp_path: Path) -> None:
    for name in ("tree/usr/bin/python3.11", "site/numpy", "litert_run.py", "g3n_executorch_run"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "qemu-aarch64").write_text("#!/bin/sh\necho qemu: uncaught target signal 11 >&2\nexit 139\n")
    (tmp_path / "qemu-aarch64").chmod(0o755)
    with pytest.raises(EngineError, match=r"python3\.11 failed under the emulator: qemu: uncaught target signal 11"):
        kit = ArmKit(tmp_path)
        kit.run(kit.python, [], {})


def test_answers_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    whole = tmp_path / "result.npz"
    parts = {f"{kind}_{i}": np.ones((2, 3), np.float32) for kind in ("logits", "prefilled") for i in range(2)}
    tables = {name: np.ones((1, 3), np.float32) for name in ("embeddings", "ple")}
    np.savez(whole, machine=np.array("aarch64"), greedy=np.array([1]), **parts, **tables)
    assert read_answers(whole, 2).greedy == [1]
    content = whole.read_bytes()
    for damaged in (b"", b"no zip", content[:200], content[:-40], content.replace(b"\x93NUMPY", b"\x93NOMPY")):
        (tmp_path / "damaged.npz").write_bytes(damaged)
        with pytest.raises(EngineError, match="left no readable results"):
            read_answers(tmp_path / "damaged.npz", 2)
    with pytest.raises(EngineError, match="left no readable results"):
        read_answers(whole, 3)
    with pytest.raises(EngineError, match="left no readable results"):
        read_answers(tmp_path / "none.npz", 2)


def test_the_command_names_what_is_missing(tmp_path: Path) -> None:
    """Before anything is read of the checkpoint."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    write_short_bundle(bundle)
    result = CliRunner().invoke(main, [str(bundle), "--arch", "arm64", "--kit", str(tmp_path)])
    assert result.exit_code == EngineError.exit_code and "make arm64-kit" in result.output


def test_a_prompt_is_cut_into_chunks() -> None:
    assert list(_prefill_lines((5, 6, 7, 8, 9), 2)) == ["run 0 5 6", "run 2 7 8", "run 4 9"]
