"""A layer over the limit is judged by what the reference itself makes of a last bit of difference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from g3n_compiler.lower.artifact import Files
from g3n_compiler.lower.opened import LayeredModel
from g3n_compiler.models.eager_cache import EagerCache
from g3n_compiler.models.family import State
from g3n_compiler.models.gemma3n.text_config import TextConfig, parse_text_config
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.verify.accelerator import one_of_each_kind
from g3n_compiler.verify.golden import Golden
from g3n_compiler.verify.layers import JITTER, REACH, layer_errors
from g3n_compiler.verify.reference import Reference
from g3n_compiler.verify.text import Expected, artifact_checks
from tests.conftest import TinyModel
from tests.fakes import FakeBackend
from tests.jobs import make_job

IDS = [2, *range(7, 200)]
FAULTY = 3
MANY_ARE_OVER = 1e-3


class Twin:
    """The reference itself, its last bits another, and one layer scaled by ``fault``."""

    def __init__(self, reference: Reference, fault: float) -> None:
        self._reference, self._fault = reference, fault

    def embeddings(self, ids: Sequence[int]) -> np.ndarray:
        return self._reference.tables.embeddings(ids)[0].numpy()

    def ple(self, ids: Sequence[int]) -> np.ndarray:
        return self._reference.tables.ple(ids)[0].numpy()

    @torch.no_grad()
    def run(self, embeddings: np.ndarray, ple: np.ndarray, prompt: int) -> Iterator[np.ndarray]:
        decoder, rng = self._reference.decoder, np.random.default_rng(0)
        noisy = torch.from_numpy((embeddings * (1 + JITTER * rng.standard_normal(embeddings.shape))).astype(np.float32))
        state: State = decoder.begin(noisy[None], torch.from_numpy(ple)[None], torch.arange(len(embeddings)))
        cache = EagerCache(self._reference.config)
        for i in range(self._reference.config.num_layers):
            state = decoder.layer(i, state, cache)
            streams = torch.cat(state.streams).transpose(0, 1)
            noise = torch.from_numpy(rng.standard_normal(streams.shape).astype(np.float32))
            streams = streams * (1 + JITTER * noise) * (self._fault if i == FAULTY else 1.0)
            state = state._replace(streams=tuple(streams[None, :, a] for a in range(streams.shape[1])))
            yield streams.numpy()
        yield decoder.logits(state.streams)[0].numpy()


@pytest.mark.parametrize(("fault", "caught"), [(1.0, []), (1.3, [f"layer {FAULTY}"])])
def test_only_a_fault_is_further_off_than_the_reference_moves(tiny: TinyModel, fault: float, caught: list[str]) -> None:
    # Of one prompt token, so that no layer is narrowed to the tokens after it.
    reference = Reference(tiny.open(), RECIPES["int4"])
    errors = layer_errors(reference, Twin(reference, fault), IDS, 1, MANY_ARE_OVER)
    assert len(errors.sensitive) > 1
    beyond = [p.name for p in errors.sensitive if p.own is not None and p.worst > REACH * p.own]
    assert beyond == caught


def test_nobody_asks_where_the_limit_is_kept(tiny: TinyModel) -> None:
    reference = Reference(tiny.open(), RECIPES["int4"])
    errors = layer_errors(reference, Twin(reference, 1.3), IDS, 1)
    assert not errors.sensitive and errors.steady.name == f"layer {FAULTY}"


def test_some_layers_alone_have_the_errors_that_they_have_among_all(tiny: TinyModel) -> None:
    reference = Reference(tiny.open(), RECIPES["int4"])
    only = one_of_each_kind(reference.config)
    every = {part.name: part.worst for part in layer_errors(reference, Twin(reference, 1.3), IDS, 1).parts}
    some = {part.name: part.worst for part in layer_errors(reference, Twin(reference, 1.3), IDS, 1, only=only).parts}
    assert list(some) == [*(f"layer {i}" for i in only), "head"] and len(some) < len(every)
    assert some == {name: every[name] for name in some}


@pytest.mark.parametrize(("size", "chosen"), [("e2b", (0, 4, 18, 19, 20, 24)), ("e4b", (0, 4, 18, 19, 20, 24))])
def test_a_layer_of_each_kind_of_the_published_models(size: str, chosen: tuple[int, ...]) -> None:
    layers, shared = {"e2b": (30, 10), "e4b": (35, 15)}[size]
    config = parse_text_config(
        {"model_type": "gemma3n_text", "num_hidden_layers": layers, "num_kv_shared_layers": shared}
    )
    assert one_of_each_kind(config) == chosen
    kinds = {(config.layer_types[i], config.sparsity[i] > 0, i < config.num_kv_layers) for i in range(layers)}
    assert {(config.layer_types[i], config.sparsity[i] > 0, i < config.num_kv_layers) for i in chosen} == kinds
    assert {config.kv_owner(i) for i in chosen} <= set(chosen)


def test_a_comparison_keeps_the_error_of_each_layer(tiny: TinyModel, tmp_path: Path) -> None:
    """Those over the limit too, which have comparisons of their own beside."""
    rounded = Reference(tiny.open(), RECIPES["int4"])

    class Layered(FakeBackend):
        def open_layers(self, files: Files, config: TextConfig) -> dict[str, LayeredModel]:
            return {"fake": Twin(rounded, 1.3)}

    job, backend = make_job(tiny.open(), tmp_path, "int4"), Layered("litert")
    backend.lower(job)
    checks = artifact_checks(job, backend, Expected([Golden("chat", IDS, 1)]), rounded)
    (whole,) = [check for check in checks if check.parts]
    names = [name for name, _ in whole.parts]
    assert names == [*(f"layer {i}" for i in range(rounded.config.num_layers)), "head"]
    errors, own = dict(whole.parts), [c for c in checks if " alone, chat" in c.name and c.metric == "relative error"]
    alone = {c.name.removeprefix("fake: ").removesuffix(" alone, chat"): c.value for c in own}
    assert alone and alone.items() <= errors.items()
    assert whole.value == max(error for name, error in errors.items() if name not in alone)
