"""When an artifact's greedy tokens may leave the reference's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from g3n_compiler.lower.artifact import Files
from g3n_compiler.verify.checks import Check
from g3n_compiler.verify.golden import GENERATED, Golden
from g3n_compiler.verify.reference import Reference
from g3n_compiler.verify.text import Expected, artifact_checks
from tests.conftest import TinyModel, ids_of
from tests.fakes import FakeModel
from tests.jobs import make_job

LENGTH = 12


class Leaving(FakeModel):
    """Exact on the golden ids; after them its logits are off by ``jump``, and one token is another."""

    def __init__(self, reference: Reference, jump: float, at: int) -> None:
        super().__init__(reference, 0.0)
        self._jump, self._at = jump, at

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        exact = super().logits(ids)
        exact[LENGTH:] *= 1 + self._jump
        return exact

    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        tokens = super().greedy(ids, count)
        tokens[self._at] += 1
        return tokens


class Entry:
    """What is opened of a bundle that holds one model."""

    runtime = "litert"

    def __init__(self, model: FakeModel) -> None:
        self._model = model

    def open_layers(self, files: Files, config: Any) -> dict[str, Any]:
        return {}

    def open_models(self, files: Files) -> Iterator[tuple[str, FakeModel]]:
        yield "decode", self._model


@pytest.fixture(scope="module")
def made(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Reference, Golden]:
    job = make_job(tiny.open(), tmp_path_factory.mktemp("greedy"), "int8")
    return job, Reference(job.source, job.recipe), Golden("random", tuple(ids_of(LENGTH, 4000)), LENGTH - 1)


def check(made: tuple[Any, Reference, Golden], jump: float, at: int) -> Check:
    job, reference, golden = made
    want = reference.logits(golden.ids).numpy()
    expected = Expected([golden], [want], [want], [1e-4])
    found = artifact_checks(job, Entry(Leaving(reference, jump, at)), expected, reference)  # type: ignore[arg-type]
    return next(c for c in found if f"{GENERATED} greedy tokens" in c.name)


def test_a_close_call_may_end_otherwise_where_rounding_made_the_logits_jump(
    made: tuple[Any, Reference, Golden],
) -> None:
    _, reference, golden = made
    _, margins = reference.greedy(golden.ids, GENERATED)
    closest, clearest = int(np.argmin(margins)), int(np.argmax(margins))
    assert check(made, 0.04, closest).passed
    assert not check(made, 0.0, closest).passed
    # However far its own logits are off, an artifact has no more room than the recipe's tolerance gives.
    assert check(made, 5.0, clearest).limit == check(made, 0.06, clearest).limit
    assert not check(made, 5.0, clearest).passed
