"""One reading of the weights: the hashes are the files', and tensors that hold NaN or Inf are named."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from g3n_compiler.checkpoint import survey as module
from g3n_compiler.checkpoint.reader import Checkpoint, file_sha256
from g3n_compiler.checkpoint.safetensors import SafetensorsFile
from g3n_compiler.checkpoint.survey import survey
from g3n_compiler.compile import compile_bundle
from g3n_compiler.errors import NotFinite
from g3n_compiler.request.options import CompileOptions
from tests.checkpoint.forms import config_of, opened, save, tensors_of
from tests.conftest import TinyModel

FLOATS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of several blocks, the last of which is not full."""
    monkeypatch.setattr(module, "BLOCK", 4096)


def opened_file(folder: Path, tensors: dict[str, torch.Tensor]) -> SafetensorsFile:
    save_file(tensors, folder / "x.safetensors")
    return SafetensorsFile(folder / "x.safetensors")


@pytest.mark.parametrize("dtype", FLOATS)
def test_finite_tensors_and_the_hash(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    wide = torch.randn(77, 101).to(dtype)
    wide[70, 3] = torch.finfo(dtype).max if dtype != torch.float64 else -9
    tensors = {
        "wide": wide, "one": torch.tensor(0.25).to(dtype), "none": torch.zeros(0, 3).to(dtype),
        "zero": torch.zeros(5).to(dtype), "n": torch.arange(7), "odd": torch.ones(3, dtype=torch.uint8),
    }  # fmt: skip
    file = opened_file(tmp_path, tensors)
    found = survey(file, tensors)
    assert found.sha256 == file_sha256(file.path)
    assert found.not_finite == frozenset()


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("at", [0, 5000, 9999])
def test_what_is_not_finite_is_named(bad: float, dtype: torch.dtype, at: int, tmp_path: Path) -> None:
    values = torch.zeros(10_000).to(dtype)
    values[at] = bad
    file = opened_file(tmp_path, {"a": torch.ones(3), "bad": values})
    with pytest.raises(NotFinite, match=r"x\.safetensors: tensor 'bad' holds 1 values"):
        survey(file, {"bad"})
    found = survey(file, {"a"})
    assert found.not_finite == {"bad"}
    assert found.sha256 == file_sha256(file.path)


def test_a_double_beyond_float32(tmp_path: Path) -> None:
    with pytest.raises(NotFinite, match="'a'"):
        survey(opened_file(tmp_path, {"a": torch.tensor([1e300], dtype=torch.float64)}), {"a"})


def test_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", -1.0)
    lines: list[str] = []
    survey(opened_file(tmp_path, {"a": torch.zeros(5000)}), progress=lines.append)
    assert len(lines) > 4
    assert lines[-1].startswith("hashing x.safetensors: 100%")


def test_only_what_is_read_must_be_finite(tiny: TinyModel, tmp_path: Path) -> None:
    dead = "model.layers.7.self_attn.k_proj.weight"  # the layer reads the cache of an earlier one
    tensors, config = tensors_of(tiny.directory), config_of(tiny.directory)
    folder = save(tmp_path / "x", tensors | {dead: torch.full((64, 64), math.nan)}, config)
    source, ledger, _ = opened(folder)
    said: list[str] = []
    found = source.checkpoint.survey(ledger.used, remark=said.append)
    assert found == Checkpoint(folder).sha256()
    assert dead in said[0]
    tensors["model.layers.3.mlp.up_proj.weight"][2, 3] = math.inf
    source, ledger, _ = opened(save(tmp_path / "y", tensors, config))
    with pytest.raises(NotFinite, match=r"model\.safetensors: tensor 'model\.layers\.3\.mlp\.up_proj\.weight'"):
        source.checkpoint.survey(ledger.used)


def test_a_compile_ends_before_anything_is_traced(tiny_copy: Path, tmp_path: Path) -> None:
    tensors = tensors_of(tiny_copy)
    tensors["model.norm.weight"][1] = math.nan
    save(tiny_copy, tensors, config_of(tiny_copy))
    lines: list[str] = []
    with pytest.raises(NotFinite, match="norm"):
        compile_bundle(CompileOptions(checkpoint=tiny_copy, modalities=("text",), out=tmp_path / "out"), lines.append)
    assert lines[-1] == "hashing the checkpoint"
    assert not (tmp_path / "out").exists()
