"""What ``vision_config.model_args`` may pass to timm: known names in known ranges, because timm checks neither."""

from __future__ import annotations

import json
from typing import Any

from g3n_compiler.checkpoint.fields import Section
from g3n_compiler.errors import WrongModel

MAX_STAGES = 8
MAX_BLOCKS = 256
"""In a stage; the published model's largest has 39."""
MAX_CHANNELS = 1 << 13
MAX_KERNEL = 15
_INTEGERS = {
    "stem_size": (1, MAX_CHANNELS),
    "msfa_output_resolution": (1, 64),
    "in_chans": (3, 3),
    "num_classes": (0, 0),
}
_NUMBERS = {
    "channel_multiplier": (1e-3, 16.0),
    "drop_rate": (0.0, 1.0),
    "drop_path_rate": (0.0, 1.0),
    "layer_scale_init_value": (0.0, 1.0),
}
_FLAGS = ("stem_bias", "fix_stem")
_LISTS = ("block_args", "msfa_indices")
_BLOCK_INTEGERS = {
    "out_chs": (1, MAX_CHANNELS),
    "stride": (1, 2),
    "exp_kernel_size": (0, MAX_KERNEL),
    "pw_kernel_size": (0, MAX_KERNEL),
    "dw_kernel_size": (0, MAX_KERNEL),
    "dw_kernel_size_start": (0, MAX_KERNEL),
    "dw_kernel_size_mid": (0, MAX_KERNEL),
    "dw_kernel_size_end": (0, MAX_KERNEL),
    "force_in_chs": (0, MAX_CHANNELS),
    "num_heads": (1, 256),
    "key_dim": (1, 4096),
    "value_dim": (1, 4096),
    "kv_stride": (1, 4),
    "group_size": (0, MAX_CHANNELS),
}
_BLOCK_NUMBERS = {"exp_ratio": (1e-3, 64.0), "se_ratio": (0.0, 1.0)}
_BLOCK_KINDS = ("er", "uir", "mqa")


def read_arguments(model_args: str) -> dict[str, Any]:
    """timm's keyword arguments from their JSON, fresh for each call, because timm modifies what it is given.

    Raises:
        WrongModel: an argument is unknown, and so may make the network something other than Gemma 3n's encoder, or it
            is out of range.
    """
    arguments: dict[str, Any] = json.loads(model_args)
    section = Section(arguments, "vision_config.model_args")
    _check(section, _INTEGERS, _NUMBERS, _FLAGS, _LISTS)
    if "msfa_indices" in section:
        indices = section.raw("msfa_indices")
        count = len(indices) if isinstance(indices, list) else 0
        section.integers("msfa_indices", (), min(max(count, 1), MAX_STAGES), -MAX_STAGES, MAX_STAGES)
    if "block_args" in section:
        _check_blocks(section)
    return arguments


def _check_blocks(section: Section) -> None:
    stages = section.raw("block_args")
    if not isinstance(stages, list) or not 1 <= len(stages) <= MAX_STAGES:
        raise section.wrong("block_args", f"a list of 1 to {MAX_STAGES} stages")
    for i, stage in enumerate(stages):
        if not isinstance(stage, list) or not 1 <= len(stage) <= MAX_BLOCKS:
            raise WrongModel(f"stage {i} of {section.where} must be a list of 1 to {MAX_BLOCKS} blocks")
        for j, block in enumerate(stage):
            fields = Section(block, f"block {i}.{j} of {section.where}")
            _check(fields, _BLOCK_INTEGERS, _BLOCK_NUMBERS, ("noskip",), ("block_type",))
            if "block_type" not in fields:
                raise fields.wrong("block_type", " or ".join(_BLOCK_KINDS))
            fields.choice("block_type", "", _BLOCK_KINDS)


def _check(
    section: Section,
    integers: dict[str, tuple[int, int]],
    numbers: dict[str, tuple[float, float]],
    flags: tuple[str, ...],
    others: tuple[str, ...],
) -> None:
    """Every field that is not null must be known, of the right type and in range."""
    for name in section.names():
        if name in integers:
            section.integer(name, 0, *integers[name])
        elif name in numbers:
            section.number(name, 0.0, *numbers[name])
        elif name in flags:
            section.flag(name, False)
        elif name not in others:
            raise section.wrong(name, "no such argument, because Gemma 3n's vision tower has none")
