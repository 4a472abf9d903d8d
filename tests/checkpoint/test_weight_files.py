"""Which files are read: those that ``transformers`` loads; what else a folder can be is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from g3n_compiler.checkpoint.identity import Inputs
from g3n_compiler.checkpoint.reader import READ_BY_NAME, Checkpoint
from g3n_compiler.checkpoint.weight_files import ADAPTER, INDEX, SINGLE, require_adapter_named
from g3n_compiler.errors import CheckpointError, MissingShard, UnknownTensor
from tests.checkpoint.forms import (
    Tensors,
    assert_same,
    config_of,
    in_transformers,
    opened,
    save,
    save_shards,
    tensors_of,
    values,
)
from tests.conftest import TinyModel

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 4696020\n"
LAYER = "layers.4.mlp.up_proj.weight"


def halves(tensors: Tensors) -> list[Tensors]:
    names = sorted(tensors)
    middle = len(names) // 2
    return [{n: tensors[n] for n in part} for part in (names[:middle], names[middle:])]


def changed(tensors: Tensors) -> Tensors:
    return tensors | {"model." + LAYER: tensors["model." + LAYER] + 1}


def test_one_file_beside_the_shards_of_its_base(tiny: TinyModel, tmp_path: Path) -> None:
    tensors, config = tensors_of(tiny.directory), config_of(tiny.directory)
    folder = save(save_shards(tmp_path / "x", halves(tensors), config, {}), changed(tensors), config)
    assert_same(folder, text=True)
    source, _, said = opened(folder)
    assert torch.equal(values(source)[LAYER], tensors["model." + LAYER] + 1)
    assert f"{INDEX} and 2 shards beside it are ignored" in said
    assert set(source.checkpoint.sha256()) == {SINGLE, "config.json"}


def test_an_index_that_lists_more_than_the_shards_hold(tiny: TinyModel, tmp_path: Path) -> None:
    more = {"lm_head.weight": "model-00002-of-00002.safetensors", "other": "model-00001-of-00002.safetensors"}
    shards = halves(tensors_of(tiny.directory))
    folder = save_shards(tmp_path / "x", shards, config_of(tiny.directory), more)
    assert_same(folder, text=True)
    assert "lists tensors that no shard holds (2, e.g. 'lm_head.weight')" in opened(folder)[2]
    del shards[0]["model." + LAYER]
    needed = {"model." + LAYER: "model-00001-of-00002.safetensors"}
    folder = save_shards(tmp_path / "x", shards, config_of(tiny.directory), needed)
    with pytest.raises(UnknownTensor, match=r"layers\.4\.mlp\.up_proj.*is not in the checkpoint"):
        opened(folder)


def test_an_index_that_lists_less_than_the_shards_hold(tiny: TinyModel, tmp_path: Path) -> None:
    folder = save_shards(tmp_path / "x", halves(tensors_of(tiny.directory)), config_of(tiny.directory), {})
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    del index["weight_map"]["model.norm.weight"], index["weight_map"]["model." + LAYER]
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
    assert_same(folder, text=True)
    assert "does not list tensors that its shards hold (2" in opened(folder)[2]


def test_a_name_in_two_shards(tiny: TinyModel, tmp_path: Path) -> None:
    shards = halves(tensors_of(tiny.directory))
    own = next(shard for shard in shards if "model." + LAYER in shard)
    for shard in shards:
        shard.setdefault("model." + LAYER, own["model." + LAYER] + 1)
    folder = save_shards(tmp_path / "x", shards, config_of(tiny.directory), {})
    assert_same(folder, text=True)
    assert "the second is read" in opened(folder)[2]


@pytest.mark.parametrize("name", ["other.safetensors", "other.safetensors.index.json"])
def test_the_file_that_the_config_names(name: str, tiny: TinyModel, tmp_path: Path) -> None:
    tensors, config = tensors_of(tiny.directory), config_of(tiny.directory) | {"transformers_weights": name}
    folder = save_shards(tmp_path / "x", [changed(tensors)], config, {})
    (folder / INDEX).rename(folder / "other.safetensors.index.json")
    save(save(folder, tensors, config), changed(tensors), config, "other.safetensors")
    assert_same(folder, text=True)
    source, _, said = opened(folder)
    assert torch.equal(values(source)[LAYER], tensors["model." + LAYER] + 1)
    assert name in said
    inputs = Inputs()
    source.checkpoint.note(inputs)
    (folder / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=name):
        inputs.require_unchanged()


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd.safetensors", "weights.bin", 3])
def test_the_config_names_no_file_of_the_folder(name: object, tiny: TinyModel, tmp_path: Path) -> None:
    config = config_of(tiny.directory) | {"transformers_weights": name}
    with pytest.raises(CheckpointError, match="transformers_weights"):
        opened(save(tmp_path / "x", tensors_of(tiny.directory), config))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["pytorch_model.bin"], r"PyTorch pickles.*pytorch_model\.bin.*save_pretrained"),
        (["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"], "and 1 more.*save_pretrained"),
        (["x-Q4_K_M.gguf"], "GGUF.*16-bit"),
        (["consolidated.00.pth"], "own layout"),
        (["consolidated.safetensors"], "own layout"),
        (["model.fp16.safetensors"], "variant"),
        (["model.fp16.safetensors.index.json"], "variant"),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], f"without their index.*{INDEX}"),
        (["weights.pth"], "PyTorch pickles"),
        (["flax_model.msgpack"], "Flax"),
        (["tf_model.h5"], "TensorFlow"),
        (["zero_to_fp32.py", "latest"], "zero_to_fp32"),
        (["__0_0.distcp"], "merge-weights"),
        (["gemma.litertlm"], "compiled model"),
        (["mine.safetensors"], "rename it to model.safetensors"),
        (["README.md"], "only safetensors are read"),
        ([ADAPTER, "adapter_model.safetensors"], "is an adapter.*--lora"),
    ],
)
def test_folders_without_weights_that_are_read(names: list[str], words: str, tiny: TinyModel, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=words):
        opened(tmp_path)
    shutil.copy(tiny.directory / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match=words):
        opened(tmp_path)


def test_the_parent_of_checkpoints(tiny: TinyModel, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    save(tmp_path / "checkpoint-500", tensors_of(tiny.directory), config_of(tiny.directory))
    with pytest.raises(MissingShard, match="its folder checkpoint-500 is a checkpoint"):
        opened(tmp_path)
    for name in ("checkpoint-1000", "checkpoint-90"):
        (tmp_path / name).mkdir()
        (tmp_path / name / SINGLE).touch()
    with pytest.raises(MissingShard, match="one of checkpoint-90, checkpoint-500, checkpoint-1000"):
        opened(tmp_path)


def test_an_adapter_beside_the_model_is_asked_for_or_refused(tiny_copy: Path, tmp_path: Path) -> None:
    (tiny_copy / ADAPTER).write_text("{}", encoding="utf-8")
    require_adapter_named(tiny_copy, None)  # without weights transformers cannot apply it
    (tiny_copy / "adapter_model.safetensors").touch()
    require_adapter_named(tiny_copy, tiny_copy)
    for lora in (None, tmp_path, tmp_path / "absent"):
        with pytest.raises(CheckpointError, match="--lora"):
            require_adapter_named(tiny_copy, lora)


@pytest.mark.parametrize("name", [*READ_BY_NAME, SINGLE])
def test_git_lfs_pointers(name: str, tiny_copy: Path) -> None:
    (tiny_copy / name).parent.mkdir(exist_ok=True)
    (tiny_copy / name).write_bytes(POINTER)
    folder = (tiny_copy / name).parent
    with pytest.raises(CheckpointError, match=rf"{name} is a git-lfs pointer.*git lfs pull in {folder}"):
        Checkpoint(tiny_copy)


def test_a_shard_that_is_a_git_lfs_pointer(tiny: TinyModel, tmp_path: Path) -> None:
    folder = save_shards(tmp_path / "x", halves(tensors_of(tiny.directory)), config_of(tiny.directory), {})
    shard = folder / "model-00002-of-00002.safetensors"
    shard.write_bytes(POINTER)
    with pytest.raises(CheckpointError, match="is a git-lfs pointer"):
        Checkpoint(folder)
    save(folder, tensors_of(tiny.directory), config_of(tiny.directory))  # it is not read beside model.safetensors
    assert in_transformers(folder, text=True)
    opened(folder)
