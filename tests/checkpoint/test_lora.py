"""A PEFT adapter merged while reading, against PEFT's own merge."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from g3n_compiler.checkpoint.lora import CONFIG, WEIGHTS, LoraAdapter
from g3n_compiler.errors import CheckpointError, NotFinite
from g3n_compiler.models.registry import text_weights
from g3n_compiler.verify.checks import EXACT, relative_error
from g3n_compiler.verify.reference import Reference, hf_logits
from tests.conftest import ids_of, make_tiny


@pytest.mark.parametrize("rslora", [False, True])
def test_merged_reading_equals_peft(rslora: bool, tmp_path: Path) -> None:
    model = make_tiny(tmp_path / "base")
    config = LoraConfig(
        r=4, lora_alpha=10, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"], use_rslora=rslora
    )
    adapted = get_peft_model(model.hf, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    source = model.open()
    spec = text_weights(source.text)["layers.0.mlp.up_proj"]
    plain = source.read(spec, (3, 5))
    source = source.adapted(tmp_path / "adapter")
    assert not torch.allclose(source.read(spec, (3, 5)), plain)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(source.read(spec, (3, 5)), merged.model.layers[0].mlp.up_proj.weight[3:5])
    ids = ids_of(30, 4352)
    assert relative_error(Reference(source).logits(ids).numpy(), hf_logits(merged, ids).numpy()) < EXACT


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"bias": "all"}, "biases"),
        ({"r": 0}, "rank 0"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "'pissa' had changed"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"a_setting_of_next_year": True}, "a_setting_of_next_year"),
        ({"r": 10**9}, "rank 1000000000"),
        ({"r": 8}, "has rank 4, but"),
        ({"r": "4"}, "no usable r"),
        ({"r": True}, "no usable r"),
        ({"lora_alpha": 10**400}, "has lora_alpha 1000"),
        ({"lora_alpha": "8"}, "no usable r and lora_alpha"),
        ({"lora_alpha": float("nan")}, "NaN is not a JSON number"),
        ({"use_rslora": [1]}, "no usable use_rslora"),
        ({"peft_type": ["LORA"]}, "expected LORA"),
    ],
)
def test_adapters_that_cannot_be_merged_right_are_refused(
    change: dict[str, object], match: str, tmp_path: Path
) -> None:
    model = make_tiny(tmp_path / "base")
    get_peft_model(model.hf, LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(CheckpointError, match=match):
        model.open().adapted(tmp_path / "adapter")


def test_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    other = make_tiny(tmp_path / "other", hidden_size=128)
    get_peft_model(other.hf, LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="do not fit"):
        make_tiny(tmp_path / "base").open().adapted(tmp_path / "adapter")


def test_an_adapter_that_is_no_folder_of_files_is_refused(tmp_path: Path) -> None:
    checkpoint = make_tiny(tmp_path / "base").open()
    (tmp_path / "file").touch()
    for path in (tmp_path / "none", tmp_path / "file", tmp_path / "a\0b"):
        with pytest.raises(CheckpointError):
            LoraAdapter(path, checkpoint.checkpoint)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for content in (b"[1]", b"\xff", b"[" * 100_000, b'{"r": ' + b"1" * 5000 + b"}"):
        (adapter / CONFIG).write_bytes(content)
        with pytest.raises(CheckpointError, match=CONFIG):
            LoraAdapter(adapter, checkpoint.checkpoint)
    (adapter / CONFIG).unlink()
    os.mkfifo(adapter / CONFIG)
    with pytest.raises(CheckpointError, match="is a pipe"):
        LoraAdapter(adapter, checkpoint.checkpoint)


def test_patterns_are_not_compiled_and_weights_are_finite(tmp_path: Path) -> None:
    """One that takes forever on the names of a checkpoint is not tried."""
    model = make_tiny(tmp_path / "base")
    get_peft_model(model.hf, LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / CONFIG
    config = json.loads(path.read_text(encoding="utf-8")) | {"target_modules": "(.*.*)*(.*.*)*x", "layers_pattern": "("}
    path.write_text(json.dumps(config), encoding="utf-8")
    assert LoraAdapter(tmp_path / "adapter", model.open().checkpoint).pairs
    tensors = load_file(tmp_path / "adapter" / WEIGHTS)
    tensors[min(tensors)][0, 0] = float("nan")
    save_file(tensors, tmp_path / "adapter" / WEIGHTS)
    with pytest.raises(NotFinite, match="holds a NaN"):
        LoraAdapter(tmp_path / "adapter", model.open().checkpoint)
