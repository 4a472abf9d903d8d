"""A second family goes through config, weight account, slice and reference, with one line in the registry."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from g3n_compiler.errors import WrongModel
from g3n_compiler.lower.memory import kv_bytes
from g3n_compiler.models.registry import FAMILIES, parameter_count
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.slice.plan import plan_slice
from g3n_compiler.source import Source
from g3n_compiler.tensor_account import account
from g3n_compiler.verify.reference import Reference
from tests.models.toy_family import CONFIG, ToyFamily, norm, save_toy

IDS = [2, 5, 90, 17, 33, 4, 95, 61, 8, 50, 12]


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line."""
    monkeypatch.setitem(FAMILIES, "toy", ToyFamily)


def by_hand(tensors: dict[str, Tensor], kept: list[int], ffn: int) -> Tensor:
    """Logits of layers ``kept`` at FFN width ``ffn`` in plain PyTorch: whole sequences, masks, no cache."""
    t = {name.removeprefix("model."): value for name, value in tensors.items()}
    ids = torch.tensor(IDS)
    x = t["embed_tokens.weight"][ids] * math.sqrt(32)
    rows = torch.where(ids < 80, ids, 0)
    ple = (t["embed_tokens_per_layer.weight"][rows] * math.sqrt(8)).view(len(IDS), 5, 8)
    keys: dict[str, tuple[Tensor, Tensor]] = {}
    at = torch.arange(len(IDS))
    for layer in kept:
        kind, p = CONFIG["layer_types"][layer], f"layers.{layer}."
        dim = dict(zip(("sliding_attention", "full_attention"), CONFIG["head_dims"], strict=True))[kind]
        seen = norm(x)
        if layer < 3:
            keys[kind] = tuple((seen @ t[p + f"{n}_proj.weight"].T).view(-1, 2, dim) for n in "kv")  # type: ignore[assignment]
        key, value = (part.repeat_interleave(2, 1) for part in keys[kind])
        query = (seen @ t[p + "q_proj.weight"].T).view(-1, 4, dim) / math.sqrt(dim)
        hidden = at[None] > at[:, None]
        if kind == "sliding_attention":
            hidden |= at[None] <= at[:, None] - CONFIG["sliding_window"]
        scores = torch.einsum("thd,shd->hts", query, key).masked_fill(hidden, -math.inf)
        x = x + torch.einsum("hts,shd->thd", scores.softmax(-1), value).reshape(len(IDS), -1) @ t[p + "o_proj.weight"].T
        gate, up, down = (t[p + f"{n}_proj.weight"] for n in ("gate", "up", "down"))
        x = x + (F.gelu(norm(x) @ gate[:ffn].T) * (norm(x) @ up[:ffn].T)) @ down[:, :ffn].T
        x = x + ple[:, layer] @ t[p + "per_layer_projection.weight"].T
    return norm(x) @ t["embed_tokens.weight"].T


def test_config_and_account(registered: None, tmp_path: Path) -> None:
    tensors = save_toy(tmp_path)
    source = Source.open(tmp_path)
    assert source.family.title == "Toy" and source.text.family == "toy"
    accounted = account(source)
    assert set(accounted.used) | set(accounted.dead) == set(tensors)
    assert accounted.dead["model.layers.4.k_proj.weight"] == "shared keys and values"
    assert parameter_count(source.text) == sum(v.numel() for n, v in tensors.items() if n not in accounted.dead)
    # two kinds of layers own keys and values of different sizes
    assert kv_bytes(source.text, 64) == 2 * 4 * 2 * (4 * 8 + 64 * 16 + 4 * 8)


def test_reference_equals_plain_arithmetic(registered: None, tmp_path: Path) -> None:
    tensors = save_toy(tmp_path)
    got = Reference(Source.open(tmp_path)).logits(IDS)
    torch.testing.assert_close(got, by_hand(tensors, [0, 1, 2, 3, 4], 64), rtol=1e-4, atol=1e-4)


def test_a_slice_equals_plain_arithmetic(registered: None, tmp_path: Path) -> None:
    tensors = save_toy(tmp_path)
    source = Source.open(tmp_path)
    sliced = source.sliced(plan_slice(source.whole, [3], [32]))
    got = Reference(sliced).logits(IDS)
    torch.testing.assert_close(got, by_hand(tensors, [0, 1, 2, 4], 32), rtol=1e-4, atol=1e-4)
    assert account(sliced).dead["model.layers.3.q_proj.weight"] == "the slice skips this layer"


def test_recipes_round_it(registered: None, tmp_path: Path) -> None:
    save_toy(tmp_path)
    source = Source.open(tmp_path)
    exact, rounded = (Reference(source, recipe).logits(IDS) for recipe in (None, RECIPES["int8"]))
    error = (rounded - exact).abs().max() / exact.abs().max()
    assert 0 < error < 0.1


def test_what_is_no_part_of_it_is_left_aside_and_told(registered: None, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_toy(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file(load_file(path) | {"model.altup_projections.0.weight": torch.zeros(2)}, path)
    said: list[str] = []
    left = account(Source.open(tmp_path), said.append).left_out
    assert "no tensor of this name" in left["model.altup_projections.0.weight"]
    assert "not part of a Toy" in said[0] and "altup_projections" in said[0]


def test_without_the_line_it_is_unknown(tmp_path: Path) -> None:
    save_toy(tmp_path)
    with pytest.raises(WrongModel, match=r"'toy'.*gemma3n"):
        Source.open(tmp_path)
