"""Adapters as PEFT writes them, and what PEFT makes of them."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from g3n_compiler.checkpoint.lora import CONFIG, WEIGHTS
from g3n_compiler.source import Source

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
PREFIX = "base_model.model."


def write_adapter(model: Any, directory: Path, save: dict[str, Any] | None = None, **options: Any) -> Any:
    """An adapter of a copy of ``model`` with random values in everything that is trained."""
    torch.manual_seed(0)
    adapted = get_peft_model(deepcopy(model), LoraConfig(**{"r": 4, "lora_alpha": 10, **options}))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    adapted.save_pretrained(directory, **(save or {}))
    return adapted


def merged(model: Any, directory: Path) -> dict[str, Tensor]:
    """The tensors that PEFT merges an adapter's folder into."""
    return PeftModel.from_pretrained(deepcopy(model), directory).merge_and_unload().state_dict()


def edit_tensors(directory: Path, change: Any) -> None:
    """Give the adapter other tensors: ``change(name, value)`` is the name and the value of each, or ``None``."""
    kept = [change(name, value) for name, value in load_file(directory / WEIGHTS).items()]
    save_file({name: value.contiguous() for name, value in filter(None, kept)}, directory / WEIGHTS)


def edit_config(directory: Path, **fields: Any) -> None:
    path = directory / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")


def assert_merged(source: Source, expected: dict[str, Tensor]) -> None:
    """Every tensor that is read is PEFT's, whole and in parts, and the adapter changes what it says it changes."""
    assert source.adapter is not None
    assert source.adapter.names
    for name in source.checkpoint.entries:
        if name not in expected:  # transformers has no tensors for what inference never reads
            assert name.removeprefix(source.text_prefix) in source.dead_tensors() or name == "lm_head.weight"
            continue
        value = source._read(name, None)
        torch.testing.assert_close(value, expected[name].float(), rtol=0, atol=2e-6)
        middle = (1, max(2, len(value) - 1)) if len(value) > 2 else (0, len(value))
        torch.testing.assert_close(source._read(name, middle), value[slice(*middle)], rtol=0, atol=2e-6)
        changed = not torch.allclose(value, source.checkpoint.read_tensor(name), rtol=0, atol=1e-4)
        assert changed == (name in source.adapter.names), name
