"""A tiny checkpoint and examples to calibrate it with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from g3n_compiler.compile import CompileOptions, compile_bundle
from g3n_compiler.nano import checkpoint_dir
from g3n_runtime.bundle import open_bundle
from tests.conftest import TinyModel
from tests.fakes import FakeBackend

EXAMPLES = [
    {"prompt": "What is a river?", "answer": "A large natural stream of water."},
    {"prompt": "What is a dog?", "answer": "An animal that barks at strangers and is kept as a pet."},
    {"text": "In the beginning God created the heaven and the earth. And the earth was without form, and void."},
]


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="package")
def source(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with nano's tokenizer."""
    folder = tmp_path_factory.mktemp("source") / "tiny"
    shutil.copytree(tiny.directory, folder)
    for name in ("tokenizer.json", "tokenizer.model"):
        shutil.copyfile(checkpoint_dir() / name, folder / name)
    return folder


@pytest.fixture(scope="package")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("examples") / "examples.jsonl"
    path.write_text("\n".join(map(json.dumps, EXAMPLES)), encoding="utf-8")
    return path


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


def compiled(checkpoint: Path, out: Path, **options: object) -> dict[str, Any]:
    given = CompileOptions(checkpoint=checkpoint, runtime="litert", context=128, out=out, **options)  # type: ignore[arg-type]
    compile_bundle(given, silent, lambda runtime: FakeBackend(runtime))
    return open_bundle(out).manifest


def edit(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    change(record)
    path.write_text(json.dumps(record, indent=1), encoding="utf-8")


def bfloat16_shards(source: Path, folder: Path) -> Path:
    """The same checkpoint as it is published: bfloat16, in shards."""
    shutil.copytree(source, folder)
    whole = {name: value.bfloat16() for name, value in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    names = sorted(whole)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for part, own in parts.items():
        save_file({name: whole[name] for name in own}, folder / part)
    index = {"weight_map": {name: part for part, own in parts.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder
