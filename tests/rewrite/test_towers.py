"""Factors in the towers: they change nothing in float32, and what was moved there before makes no difference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.rewrite.apply import Rewrite, Rewrites
from g3n_compiler.source import Source
from g3n_compiler.verify.checks import EXACT
from g3n_compiler.verify.loss import TowerLoss
from g3n_compiler.verify.tower_loss import measure_towers
from tests.rewrite.planted import plant, senses

ATTENTION = "vision_tower.timm_model.blocks.2.3."
LAYER = "audio_tower.conformer.1."
HALF = torch.arange(0, 8, 2)


def losses(source: Source) -> dict[str, TowerLoss]:
    return measure_towers(source, RECIPES["int8"], (256,))


@pytest.fixture(scope="module")
def rewritten() -> Source:
    return Source.open(checkpoint_dir()).rewritten()


@pytest.fixture(scope="module")
def plain(rewritten: Source) -> dict[str, TowerLoss]:
    return losses(rewritten)


def test_nothing_changes_in_float32(plain: dict[str, TowerLoss]) -> None:
    assert list(plain) == ["vision", "audio"]
    for loss in plain.values():
        assert loss.rewritten is not None and loss.rewritten < EXACT / 10


def test_all_that_commutes_is_rewritten(rewritten: Source) -> None:
    assert rewritten.rewrites is not None
    found = rewritten.rewrites.tensors
    rows = {name for name, rewrite in found.items() if rewrite.rows is not None}
    columns = {name for name, rewrite in found.items() if rewrite.columns is not None}
    assert {f"{ATTENTION}norm.weight", f"{ATTENTION}attn.key.down_conv.weight"} <= rows
    assert {f"{ATTENTION}attn.query.proj.weight", f"{ATTENTION}attn.key.proj.weight"} <= columns
    assert f"{LAYER}attention.attn.v_proj.weight" in rows & columns
    assert {f"{LAYER}attention.post.weight", f"{LAYER}lconv1d.linear_start.weight"} <= columns
    for tower in ("vision", "audio"):
        assert f"embed_{tower}.embedding_projection.weight" in columns
        assert {f"embed_{tower}.{kind}_embedding_norm.weight" for kind in ("soft", "hard")} <= rows
    text = Source.open(checkpoint_dir(), modalities=("text",)).rewritten()
    assert text.rewrites is not None and not [name for name in text.rewrites.tensors if name.startswith(LAYER[:11])]


def test_outliers_cost_no_more_than_without(plain: dict[str, TowerLoss], tmp_path: Path) -> None:
    planted = Source.open(plant(checkpoint_dir(), tmp_path / "planted", senses(64)))
    before, after = losses(planted), losses(planted.rewritten())
    for tower, loss in plain.items():
        assert before[tower].error > 3 * loss.error
        assert after[tower].error == pytest.approx(loss.error, rel=0.02)
        assert (moved := after[tower].rewritten) is not None and moved < EXACT / 10


@pytest.mark.parametrize(
    ("tower", "tensor"),
    [("vision", f"{ATTENTION}attn.value.down_conv.weight"), ("audio", f"{LAYER}attention.post.weight")],
)
def test_a_rewrite_that_is_not_exact_is_found(rewritten: Source, tower: str, tensor: str) -> None:
    source = Source.open(checkpoint_dir(), modalities=("text", tower))
    assert rewritten.rewrites is not None
    good = rewritten.rewrites.tensors[tensor]
    factors = good.rows, good.columns
    wrong = Rewrite(*(None if f is None else f * torch.ones_like(f).index_fill(0, HALF, 2) for f in factors))
    broken = Rewrites({**rewritten.rewrites.tensors, tensor: wrong})
    (loss,) = losses(replace(source, rewrites=broken)).values()
    assert loss.rewritten is not None and loss.rewritten > EXACT
