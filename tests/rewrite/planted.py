"""Checkpoints whose channels are out of proportion, and that compute the same as those they were made from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

TEXT = "model.language_model."
"""Before the names of the text model in nano; checkpoints of the text model alone have another."""
Plant = Callable[[dict[str, Tensor], str], None]


def plant(source: Path, folder: Path, *changes: Plant) -> Path:
    """A copy of the checkpoint in ``source``, of one shard, in float32, with ``changes`` made to its tensors."""
    folder.mkdir()
    for path in source.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    tensors = {name: value.float() for name, value in load_file(source / "model.safetensors").items()}
    prefix = TEXT if any(name.startswith(TEXT) for name in tensors) else "model."
    for change in changes:
        change(tensors, prefix)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
    return folder


def _layers(tensors: dict[str, Tensor], prefix: str) -> list[str]:
    names = (n for n in tensors if n.startswith(prefix) and n.endswith(".mlp.up_proj.weight"))
    return sorted(name.removesuffix("mlp.up_proj.weight") for name in names)


def hidden(strength: float) -> Plant:
    """Some rows of up larger, and the columns of down that read them smaller."""

    def change(tensors: dict[str, Tensor], prefix: str) -> None:
        for p in _layers(tensors, prefix):
            tensors[p + "mlp.up_proj.weight"][3::40] *= strength
            tensors[p + "mlp.down_proj.weight"][:, 3::40] /= strength

    return change


def norm(strength: float) -> Plant:
    """Some gains before the FFN larger, and the columns that read them smaller."""

    def change(tensors: dict[str, Tensor], prefix: str) -> None:
        for p in _layers(tensors, prefix):
            tensors[p + "pre_feedforward_layernorm.weight"][1::31] *= strength
            for name in ("gate_proj", "up_proj"):
                tensors[p + f"mlp.{name}.weight"][:, 1::31] /= strength

    return change


def small(strength: float) -> Plant:
    """The same of the correction's scale, of LAUREL, and of what the per-layer table gives."""

    def change(tensors: dict[str, Tensor], prefix: str) -> None:
        layers = _layers(tensors, prefix)
        for p in layers:
            tensors[p + "altup.correct_output_scale"][2::29] *= strength
            tensors[p + "per_layer_input_gate.weight"][:, 2::29] /= strength
            tensors[p + "laurel.linear_left.weight"][1] *= strength
            tensors[p + "laurel.linear_right.weight"][:, 1] /= strength
            tensors[p + "per_layer_projection.weight"][:, 5] /= strength
        tensors[prefix + "per_layer_projection_norm.weight"][5] *= strength
        width = len(tensors[prefix + "per_layer_projection_norm.weight"])
        tensors[prefix + "embed_tokens_per_layer.weight"][:, 5::width] *= strength

    return change


def turned(heads: int, owners: dict[int, list[int]], dim: int) -> Plant:
    """Values turned at random within each KV head, and turned back by what reads them.

    Args:
        heads: KV heads.
        owners: the layers that read each owner's values.
        dim: of a head.
    """

    def change(tensors: dict[str, Tensor], prefix: str) -> None:
        generator = torch.Generator().manual_seed(0)
        for owner, readers in owners.items():
            rotation = torch.linalg.qr(torch.randn(heads, dim, dim, generator=generator, dtype=torch.float64)).Q
            name = f"{prefix}layers.{owner}.self_attn.v_proj.weight"
            value = tensors[name].double().view(heads, dim, -1)
            tensors[name] = (rotation @ value).view(tensors[name].shape).float()
            for reader in readers:
                name = f"{prefix}layers.{reader}.self_attn.o_proj.weight"
                rows = tensors[name].double().view(len(tensors[name]), heads, -1, dim)
                tensors[name] = torch.einsum("nhgd,hed->nhge", rows, rotation).reshape(tensors[name].shape).float()

    return change


def senses(strength: float) -> Plant:
    """Some gains of norms in the towers larger, and what reads those channels smaller."""

    def change(tensors: dict[str, Tensor], prefix: str) -> None:
        towers = prefix.removesuffix("language_model.")
        for name in [n for n in tensors if n.startswith(f"{towers}audio_tower.conformer.")]:
            if name.endswith("ffw_layer_start.pre_layer_norm.weight"):
                tensors[name][2::29] *= strength
                tensors[name.replace("pre_layer_norm", "ffw_layer_1")][:, 2::29] /= strength
            if name.endswith("attn.v_proj.weight"):
                tensors[name][4::31] *= strength
                tensors[name.replace("attn.v_proj", "post")][:, 4::31] /= strength
        for name in [n for n in tensors if n.startswith(f"{towers}vision_tower.timm_model.blocks.")]:
            if name.endswith("dw_start.bn.weight"):
                tensors[name][1::13] *= strength
                tensors[name.replace("dw_start.bn", "pw_exp.conv")][:, 1::13] /= strength
            if name.endswith("attn.query.proj.weight"):
                block = name.removesuffix("attn.query.proj.weight")
                tensors[f"{block}norm.weight"][1::13] *= strength
                for reader in ("query.proj", "key.proj", "value.proj"):
                    down = f"{block}attn.{reader.removesuffix('proj')}down_conv.weight"
                    if down in tensors:
                        tensors[down][1::13] /= strength
                    else:
                        tensors[f"{block}attn.{reader}.weight"][:, 1::13] /= strength

    return change
