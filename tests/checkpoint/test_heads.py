"""A stored head: equal to the token table it is taken, another is refused; compared with ``transformers``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from g3n_compiler import tensor_account
from g3n_compiler.errors import UnknownTensor
from tests.checkpoint.forms import assert_same, config_of, in_transformers, opened, save, tensors_of
from tests.conftest import TinyModel

EMBED = "model.embed_tokens.weight"
COUNTED = ("lm_head.weight", "model.lm_head.weight", "model.language_model.lm_head.weight")


def saved(tiny: TinyModel, folder: Path, name: str, more: float = 0.0, **config: Any) -> Path:
    tensors = tensors_of(tiny.directory)
    head = tensors[EMBED].clone()
    head[-1] += more
    return save(folder, tensors | {name: head}, config_of(tiny.directory) | config)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", COUNTED)
def test_an_equal_head_is_taken(
    name: str, tied: bool, tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_account, "BLOCK_ROWS", 1000)
    folder = saved(tiny, tmp_path / "x", name, tie_word_embeddings=tied)
    assert_same(folder, text=True)
    _, ledger, _ = opened(folder)
    assert "tied" in ledger.dead[name]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", COUNTED)
def test_a_head_of_its_own_is_refused_for_transformers_computes_with_it(
    name: str, tied: bool, tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_account, "BLOCK_ROWS", 1000)  # it differs in the last block
    folder = saved(tiny, tmp_path / "x", name, 0.5, tie_word_embeddings=tied)
    theirs, _ = in_transformers(folder, text=True)
    assert not torch.equal(theirs["lm_head.weight"], theirs["embed_tokens.weight"])
    with pytest.raises(UnknownTensor, match=r"differs from embed_tokens\.weight.*separate head"):
        opened(folder)


def test_a_head_that_transformers_does_not_load_is_left_aside(tiny: TinyModel, tmp_path: Path) -> None:
    folder = saved(tiny, tmp_path / "x", "language_model.lm_head.weight", 0.5)
    assert_same(folder, text=True)
    _, _, said = opened(folder)
    assert "language_model.lm_head.weight differs" in said


def test_the_head_of_an_old_layout_is_its_own(tiny: TinyModel, tmp_path: Path) -> None:
    tensors = {"language_model." + n: t for n, t in tensors_of(tiny.directory).items()}
    head = tensors["language_model." + EMBED].clone()
    config = config_of(tiny.directory)
    opened(save(tmp_path / "same", tensors | {"language_model.lm_head.weight": head}, config))
    with pytest.raises(UnknownTensor, match="separate head"):
        opened(save(tmp_path / "other", tensors | {"language_model.lm_head.weight": head + 1}, config))


def test_only_the_head_is_stored(tiny: TinyModel, tmp_path: Path) -> None:
    tensors = tensors_of(tiny.directory)
    tensors["lm_head.weight"] = tensors.pop(EMBED)
    config = config_of(tiny.directory)
    assert_same(save(tmp_path / "x", tensors, config), text=True)
    assert "token table" in opened(tmp_path / "x")[2]
    with pytest.raises(UnknownTensor, match="embed_tokens"):
        opened(save(tmp_path / "untied", tensors, config | {"tie_word_embeddings": False}))


def test_untied_without_a_head_is_refused(tiny: TinyModel, tmp_path: Path) -> None:
    folder = save(
        tmp_path / "x", tensors_of(tiny.directory), config_of(tiny.directory) | {"tie_word_embeddings": False}
    )
    assert "lm_head.weight" in in_transformers(folder, text=True)[1]
    with pytest.raises(UnknownTensor, match="tie_word_embeddings false"):
        opened(folder)


@pytest.mark.parametrize("table", ["embed_tokens", "embed_tokens_per_layer"])
@pytest.mark.parametrize("more", [8, -8])
def test_a_resized_vocabulary_that_the_config_does_not_know(
    table: str, more: int, tiny: TinyModel, tmp_path: Path
) -> None:
    tensors, name = tensors_of(tiny.directory), f"model.{table}.weight"
    rows = tensors[name].shape[0] + more
    tensors[name] = torch.cat([tensors[name], tensors[name]])[:rows]
    folder = save(tmp_path / "x", tensors, config_of(tiny.directory))
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        in_transformers(folder, text=True)
    with pytest.raises(UnknownTensor, match=rf"has {rows} rows.*vocabulary was resized"):
        opened(folder)


def test_a_resized_vocabulary_that_the_config_knows(tiny: TinyModel, tmp_path: Path) -> None:
    tensors, config = tensors_of(tiny.directory), config_of(tiny.directory)
    tensors[EMBED] = torch.cat([tensors[EMBED], tensors[EMBED][:9]])
    assert_same(save(tmp_path / "x", tensors, config | {"vocab_size": len(tensors[EMBED])}), text=True)
