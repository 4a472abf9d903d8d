"""Quantised checkpoints are named before a tensor is missed; settings that only say so stop nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from g3n_compiler.errors import BadHeader, QuantisedCheckpoint
from tests.checkpoint.forms import Tensors, assert_same, config_of, opened, save, tensors_of
from tests.conftest import TinyModel

BASE = "model.layers.1.mlp.up_proj"
U8, I8, I32, F8 = torch.uint8, torch.int8, torch.int32, torch.float8_e4m3fn
ONE = torch.ones(1)


def ints(*shape: int, dtype: torch.dtype = I32) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


FORMS: dict[str, tuple[Tensors, dict[str, Any], str]] = {
    "bnb4": (
        {".weight": ints(4096, 1, dtype=U8), ".weight.absmax": ONE, ".weight.quant_map": ONE,
         ".weight.quant_state.bitsandbytes__nf4": ints(80, dtype=U8)},
        {"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes, 4 bits",
    ),
    "bnb8": ({".weight": ints(128, 64, dtype=I8), ".SCB": ONE}, {}, "bitsandbytes, 8 bits"),
    "gptq": ({".qweight": ints(8, 128), ".qzeros": ints(1, 16), ".scales": ONE, ".g_idx": ints(64)}, {}, "GPTQ"),
    "awq": ({".qweight": ints(8, 128), ".qzeros": ints(1, 16), ".scales": ONE}, {"quant_method": "awq"}, "AWQ"),
    "auto-round": ({".qweight": ints(8, 128)}, {"quant_method": "auto-round"}, "AutoRound"),
    "compressed": ({".weight_packed": ints(128, 8), ".weight_scale": ONE}, {}, "compressed-tensors"),
    "int8 compressed": (
        {".weight": ints(128, 64, dtype=I8), ".weight_scale": ONE}, {"quant_method": "compressed-tensors"},
        "compressed-tensors",
    ),
    "fp8": ({".weight": torch.ones(128, 64).to(F8), ".weight_scale_inv": ONE}, {"quant_method": "fp8"}, "FP8"),
    "fp8 bare": ({".weight": torch.ones(128, 64).to(F8)}, {}, "FP8"),
    "mlx": (
        {".weight": ints(128, 8, dtype=torch.uint32), ".scales": ONE, ".biases": ONE}, {"bits": 4, "group_size": 32},
        "MLX",
    ),
    "mlx bare": ({".weight": ints(128, 8, dtype=torch.uint32), ".scales": ONE, ".biases": ONE}, {}, "MLX"),
    "hqq": ({".W_q": ints(64, 64, dtype=U8), ".meta": ONE}, {}, "HQQ"),
    "quanto": ({".weight._data": ints(128, 64, dtype=I8), ".weight._scale": ONE}, {}, "quanto"),
    "torchao": ({"._weight_qdata": ints(128, 64, dtype=I8), "._weight_scale": ONE}, {}, "torchao"),
    "gemma qat": (
        {".weight": ints(128, 32, dtype=U8), ".weight_scale": torch.ones(128, 1), ".input_activation_scale": ONE[0]},
        {}, "Gemma's QAT, packed",
    ),
    "gemma qat by config": (
        {".weight": ints(128, 32, dtype=U8), ".weight_scale": torch.ones(128, 1)},
        {"quant_method": "gemma", "num_bits": 4}, "Gemma's QAT, packed",
    ),
    "bitnet": ({".weight": ints(32, 64, dtype=U8), ".weight_scale": ONE}, {"quant_method": "bitnet"}, "BitNet"),
    "a new method": ({".weight": ints(32, 64, dtype=U8)}, {"quant_method": "marvel"}, "marvel"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_quantised_checkpoints_are_named(form: str, tiny: TinyModel, tmp_path: Path) -> None:
    parts, section, words = FORMS[form]
    tensors, config = tensors_of(tiny.directory), config_of(tiny.directory)
    del tensors[BASE + ".weight"]
    tensors |= {BASE + part: tensor for part, tensor in parts.items()}
    if section:
        config["quantization_config"] = section
    with pytest.raises(QuantisedCheckpoint, match=f"quantised with .?{words}.*pass the 16-bit checkpoint"):
        opened(save(tmp_path / "x", tensors, config))


@pytest.mark.parametrize("name", ["quantization_config", "quantization"])
def test_settings_over_plain_floats_are_left_aside(name: str, tiny: TinyModel, tmp_path: Path) -> None:
    config = config_of(tiny.directory) | {name: {"quant_method": "gptq", "bits": 4, "group_size": 128}}
    extra = {"model.layers.0.mlp.position_ids": torch.zeros(2, 3, dtype=torch.int64)}
    _, _, said = opened(save(tmp_path / "x", tensors_of(tiny.directory) | extra, config))
    assert f"{name} says that the model is quantised with GPTQ" in said


@pytest.mark.parametrize("dtype", [U8, I32, torch.int64, torch.bool])
def test_a_needed_tensor_of_integers_is_refused_by_name(dtype: torch.dtype, tiny: TinyModel, tmp_path: Path) -> None:
    tensors = tensors_of(tiny.directory)
    tensors["model.norm.weight"] = torch.ones(64, dtype=dtype)
    with pytest.raises(BadHeader, match=r"model\.norm\.weight.* has dtype"):
        opened(save(tmp_path / "x", tensors, config_of(tiny.directory)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_floats_of_another_size_as_transformers(dtype: torch.dtype, tiny: TinyModel, tmp_path: Path) -> None:
    tensors = {n: t.to(dtype) if "mlp" in n else t for n, t in tensors_of(tiny.directory).items()}
    assert_same(save(tmp_path / "x", tensors, config_of(tiny.directory)), text=True)
