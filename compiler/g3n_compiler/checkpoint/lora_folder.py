"""Tell an adapter's folder from a checkpoint's, and say what to do with one that is in the other's place."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from g3n_compiler.checkpoint.fields import present
from g3n_compiler.checkpoint.lfs import is_lfs_pointer
from g3n_compiler.checkpoint.lora_config import CONFIG, MAX_CONFIG_BYTES, LoraSettings
from g3n_compiler.errors import CheckpointError
from g3n_runtime.errors import G3nError
from g3n_runtime.reading import open_regular, read_json_object

WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
MODEL_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
MAX_LISTED = 1000
TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    "preprocessor_config.json",
)
"""Files of the prompts that trainers save beside an adapter; they are compared with the checkpoint's, and not used."""


def read_settings(directory: Path) -> LoraSettings:
    """The settings of the adapter in ``directory``, whose weights are seen to be there but not read.

    Raises:
        CheckpointError: it is no adapter's folder, or a setting is not known to be merged exactly.
    """
    if not present(directory / CONFIG):
        raise CheckpointError(_why_none(directory))
    _require_content(directory / CONFIG)
    settings = LoraSettings.read(directory)
    if not present(directory / WEIGHTS) and present(directory / PICKLE):
        raise CheckpointError(
            f"{directory / PICKLE} is a pickle, which may hold code and is not read: load the adapter with PEFT and "
            f"write {WEIGHTS} with save_pretrained(safe_serialization=True)"
        )
    _require_content(directory / WEIGHTS)
    return settings


def adapter_advice(directory: Path) -> str | None:
    """What to say of a folder that was passed as a checkpoint but holds an adapter alone; ``None`` for any other."""
    if not present(directory / CONFIG) or any(present(directory / name) for name in (*MODEL_FILES, "config.json")):
        return None
    base = None
    with suppress(G3nError):  # that it is no checkpoint is to be said either way
        base = read_json_object(directory / CONFIG, CheckpointError, MAX_CONFIG_BYTES).get("base_model_name_or_path")
    trained = f", {json.dumps(base)[:120]}," if isinstance(base, str) and base else ""
    return (
        f"{directory} holds a PEFT adapter ({CONFIG}), not a checkpoint: pass it with --lora, and the model that it "
        f"was trained on{trained} with --checkpoint"
    )


def _require_content(path: Path) -> None:
    with open_regular(path, CheckpointError) as file:
        if is_lfs_pointer(file.read(64)):
            raise CheckpointError(f"{path} is a git-lfs pointer, not the file itself: run git lfs pull in its folder")


def _why_none(directory: Path) -> str:
    """Why there is no adapter in a folder without its configuration."""
    plain = f"{directory / CONFIG} is missing: expected the folder of a PEFT adapter"
    if not directory.is_dir():
        return plain
    if any(present(directory / name) for name in MODEL_FILES):
        return f"{directory} holds a checkpoint, not an adapter: pass it with --checkpoint and leave --lora out"
    if present(directory / WEIGHTS) or present(directory / PICKLE):
        return f"{plain}, which has it beside the weights: copy it from where the adapter was saved"
    try:
        listed = sorted(path for path, _ in zip(directory.iterdir(), range(MAX_LISTED), strict=False))
    except OSError as reason:
        return f"{directory} cannot be listed ({reason.strerror})"
    inner = [path for path in listed if path.is_dir() and present(path / CONFIG)]
    if not inner:
        return plain
    shown = ", ".join(str(path) for path in inner[:5])
    return f"{directory} holds no adapter itself, but its subfolders do: pass one of them with --lora ({shown})"
