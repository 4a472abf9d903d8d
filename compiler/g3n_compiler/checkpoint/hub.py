"""Find the checkpoint: a folder the user names, the embedded nano, or the hub's repository for a size."""

from __future__ import annotations

import os
from pathlib import Path

from g3n_compiler.checkpoint.config import TextConfig
from g3n_compiler.errors import CheckpointError, HubError, WrongModel
from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.slice.published import E4B_SHAPE, published

HUB_IDS = {"e2b": "google/gemma-3n-E2B-it", "e4b": "google/gemma-3n-E4B-it"}
SIZES = ("nano", *HUB_IDS, *(name for name in published() if name not in HUB_IDS))
"""The embedded checkpoint, the published models, and the published slices of E4B."""
SHAPES = {"e2b": ((30, 8192), E4B_SHAPE), "e4b": (E4B_SHAPE,)}
"""Layers and FFN width of the checkpoints that each published model can be made from."""
CUSTOM = "custom"
"""What a manifest calls a checkpoint folder whose size the user did not name."""
OFFLINE = "HF_HUB_OFFLINE"
PATTERNS = ("*.json", "*.safetensors", "*.model", "*.jinja")
"""What is downloaded: no code, no pickles."""


def name_size(size: str | None, directory: Path | None) -> str:
    """The size to compile as: what was asked for, else nano, or :data:`CUSTOM` for a folder.

    Raises:
        CheckpointError: an unknown size, or ``nano``, whose licence is ours, for a folder.
    """
    if size is None:
        return "nano" if directory is None else CUSTOM
    if size not in SIZES:
        raise CheckpointError(f"unknown size {size!r}, expected one of {', '.join(SIZES)}")
    if size == "nano" and directory is not None:
        raise CheckpointError(f"--size nano is the embedded checkpoint, {directory} is not: leave --size out")
    return size


def check_size(size: str, config: TextConfig) -> None:
    """Raise :class:`WrongModel` if a published ``size`` was asked for and the checkpoint has another shape."""
    shape = config.num_layers, max(config.ffn_dims)
    if shape not in SHAPES.get(size, (shape,)):
        expected = " or ".join(f"{layers} layers and FFNs of {width}" for layers, width in SHAPES[size])
        raise WrongModel(
            f"the checkpoint has {shape[0]} layers and FFNs of {shape[1]}, --size {size} is made from {expected}: "
            "leave --size out to compile it as it is"
        )


def resolve_checkpoint(size: str, directory: Path | None) -> Path:
    """The folder to compile: ``directory`` if given, else the one that ``size`` stands for.

    Raises:
        HubError: the hub is out of reach or the model is gated; says how to pass a folder instead.
    """
    if directory is not None or size == "nano":
        # Before transformers is imported, which then asks the hub nothing about a folder.
        os.environ[OFFLINE] = "1"
        return checkpoint_dir() if directory is None else directory
    if size not in SIZES:
        raise CheckpointError("the bundle was compiled from a folder of its own: pass it with --checkpoint DIR")
    return _download(HUB_IDS.get(size, HUB_IDS["e4b"]))


def _download(repo: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    remedy = f"accept the licence of {repo} and log in, or download it elsewhere and pass --checkpoint DIR"
    try:
        return Path(snapshot_download(repo, allow_patterns=list(PATTERNS)))
    except GatedRepoError:
        raise HubError(f"{repo} is gated and this machine has no access: {remedy}") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise HubError(f"{repo} cannot be fetched from the hub ({reason}): {remedy}") from None
