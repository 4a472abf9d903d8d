"""The embedding models against the tables they were written from."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import Tensor

from g3n_compiler.errors import NotFinite, TargetError
from g3n_compiler.lower.litert import stream_weights as stream
from g3n_compiler.lower.litert.tables import write_ple_embedder, write_token_embedder
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.models.weights import WeightSpec
from g3n_compiler.quantize.recipe import RECIPES, Recipe
from g3n_compiler.quantize.rows import fake_quantize
from tests.conftest import TinyModel

VOCAB, PLE_VOCAB = 40, 30


class Tables:
    """Random tables whose row 0, unlike a checkpoint's, is not zero."""

    def __init__(self, config: TextConfig) -> None:
        generator = torch.Generator().manual_seed(0)
        self.values = {
            "embed_tokens": torch.randn(VOCAB, config.hidden_size, generator=generator),
            "embed_tokens_per_layer": torch.randn(PLE_VOCAB, config.num_layers * config.ple_dim, generator=generator),
        }
        self.largest_read = 0

    def read(self, spec: WeightSpec, rows: tuple[int, int] | None = None) -> Tensor:
        value = self.values[spec.name] if rows is None else self.values[spec.name][rows[0] : rows[1]]
        self.largest_read = max(self.largest_read, value.numel() * 4)
        return value


@pytest.fixture
def config(tiny: TinyModel) -> TextConfig:
    return dataclasses.replace(tiny.open().text, vocab_size=VOCAB, ple_vocab_size=PLE_VOCAB)


def look_up(path: Path, token: int) -> np.ndarray:
    runner = Interpreter(model_path=str(path)).get_signature_runner()
    return runner(token_ids=np.array([[token]], np.int32))["embeddings"]


@pytest.mark.parametrize("recipe", ["fp32", "int8", "int4", "int4-rtn"])
def test_rows_come_scaled(config: TextConfig, tmp_path: Path, recipe: str) -> None:
    tables, path = Tables(config), tmp_path / "table.tflite"
    write_token_embedder(config, RECIPES[recipe], tables.read, path)
    scheme = RECIPES[recipe].roles["embedding"]
    want = fake_quantize(tables.values["embed_tokens"], scheme) * config.hidden_size**0.5
    for token in (0, 7, VOCAB - 1):
        got = look_up(path, token)
        assert got.shape == (1, 1, config.hidden_size)
        np.testing.assert_allclose(got[0, 0], want[token], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("recipe", ["fp32", "int8", "int4"])
def test_ids_outside_the_ple_table_look_up_row_0(config: TextConfig, tmp_path: Path, recipe: str) -> None:
    tables, path = Tables(config), tmp_path / "table.tflite"
    write_ple_embedder(config, RECIPES[recipe], tables.read, path)
    scheme = RECIPES[recipe].roles["ple"]
    want = fake_quantize(tables.values["embed_tokens_per_layer"], scheme) * config.ple_dim**0.5
    for token, row in ((0, 0), (PLE_VOCAB - 1, PLE_VOCAB - 1), (PLE_VOCAB, 0), (VOCAB, 0), (10**6, 0), (-1, 0)):
        got = look_up(path, token)
        assert got.shape == (1, 1, config.num_layers, config.ple_dim)
        np.testing.assert_allclose(got.reshape(-1), want[row], rtol=1e-6, atol=1e-6, err_msg=f"token {token}")


def test_an_id_outside_the_vocabulary_fails(config: TextConfig, tmp_path: Path) -> None:
    path = tmp_path / "table.tflite"
    write_token_embedder(config, RECIPES["int8"], Tables(config).read, path)
    for token in (-1, VOCAB):
        with pytest.raises(RuntimeError, match="out of bounds"):
            look_up(path, token)


def test_blocks_of_rows_give_the_same_bytes(
    config: TextConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests, largest = set(), []
    for block in (stream.BLOCK_BYTES, 3 * 4 * config.hidden_size):
        monkeypatch.setattr(stream, "BLOCK_BYTES", block)
        tables, path = Tables(config), tmp_path / "table.tflite"
        write_token_embedder(config, RECIPES["int4-rtn"], tables.read, path)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
        largest.append(tables.largest_read)
    assert len(digests) == 1
    assert largest == [VOCAB * 4 * config.hidden_size, 3 * 4 * config.hidden_size]


def test_a_table_with_a_nan_is_refused(config: TextConfig, tmp_path: Path) -> None:
    tables = Tables(config)
    tables.values["embed_tokens"][33, 5] = torch.nan
    with pytest.raises(NotFinite, match=r"embed_tokens\.weight"):
        write_token_embedder(config, RECIPES["int8"], tables.read, tmp_path / "table.tflite")


def test_int4_rows_that_end_within_a_byte_are_refused(config: TextConfig, tmp_path: Path) -> None:
    odd = dataclasses.replace(config, hidden_size=63)
    recipe: Recipe = RECIPES["int4-rtn"]
    with pytest.raises(TargetError, match="rows of 63 values"):
        write_token_embedder(odd, recipe, Tables(odd).read, tmp_path / "table.tflite")
