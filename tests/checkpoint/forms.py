"""Checkpoints as people have them: a tiny or nano's tensors, saved in other ways."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from g3n_compiler.checkpoint.weight_files import INDEX, SINGLE
from g3n_compiler.models.embedding_tables import embedding_weights
from g3n_compiler.models.registry import text_weights
from g3n_compiler.source import Source
from g3n_compiler.tensor_account import Account, account

Tensors = dict[str, torch.Tensor]
TEXT = "model.language_model."


def tensors_of(directory: Path) -> Tensors:
    return load_file(directory / SINGLE)


def config_of(directory: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return config


def save(folder: Path, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any], name: str = SINGLE) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({n: t.contiguous().clone() for n, t in tensors.items()}, folder / name, {"format": "pt"})
    return folder


def save_shards(folder: Path, shards: list[Tensors], config: Mapping[str, Any], more: dict[str, str]) -> Path:
    """``more`` is added to the index."""
    listed: dict[str, str] = {}
    for number, tensors in enumerate(shards):
        name = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        save(folder, tensors, config, name)
        listed |= dict.fromkeys(tensors, name)
    index = {"metadata": {"total_size": 1}, "weight_map": listed | more}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
    return folder


def opened(folder: Path, modalities: tuple[str, ...] = ("text", "vision", "audio")) -> tuple[Source, Account, str]:
    """The source, its account, and everything that was remarked."""
    said: list[str] = []
    source = Source.open(folder, modalities=modalities, remark=said.append)
    return source, account(source, said.append), "\n".join(said)


def values(source: Source) -> Tensors:
    """Every weight that is compiled."""
    specs = [*text_weights(source.text).values(), *embedding_weights(source.text).values()]
    for tower in source.towers:
        specs += source.family.towers[tower].weights(source).values()
    return {spec.tensor: source.read_relative(spec.tensor) for spec in specs}


def in_transformers(folder: Path, *, text: bool = False) -> tuple[Tensors, set[str]]:
    """The float32 state of ``from_pretrained``, by our relative names, and what it found missing."""
    from transformers import Gemma3nForCausalLM, Gemma3nForConditionalGeneration

    kind: Any = Gemma3nForCausalLM if text else Gemma3nForConditionalGeneration
    model, found = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    state = model.state_dict()
    prefix = "model." if text else TEXT
    return {n.removeprefix(prefix).removeprefix("model."): t for n, t in state.items()}, set(found["missing_keys"])


def assert_same(folder: Path, *, text: bool = False) -> None:
    """What a compile reads is what ``transformers`` loads."""
    source, _, _ = opened(folder)
    theirs, missing = in_transformers(folder, text=text)
    ours = values(source)
    assert not missing
    assert len(ours) > 100
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    assert torch.equal(theirs["lm_head.weight"], ours["embed_tokens.weight"])
    source.close()
