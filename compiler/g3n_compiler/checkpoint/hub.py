"""Find the checkpoint: a folder that the user names, the embedded nano, or the hub's repository for a size."""

from __future__ import annotations

import os
from pathlib import Path

from g3n_compiler.errors import CheckpointError, HubError
from g3n_compiler.models.registry import FAMILIES
from g3n_compiler.nano import checkpoint_dir
from g3n_runtime.names import unknown

NANO = "nano"
CUSTOM = "custom"
"""The manifest's name for a checkpoint folder whose size the user did not name."""
OFFLINE = "HF_HUB_OFFLINE"
PATTERNS = ("*.json", "*.safetensors", "*.model", "*.jinja")
"""Files that are downloaded: no code, no pickles."""


def known_sizes() -> tuple[str, ...]:
    """The embedded checkpoint, and the published models and slices."""
    return (NANO, *(size for family in FAMILIES.values() for size in family().published.sizes))


def name_size(size: str | None, directory: Path | None) -> str:
    """The size to compile as: what was asked for, otherwise nano, or :data:`CUSTOM` for a folder.

    Raises:
        CheckpointError: the size is unknown, or a folder was given for ``nano``, whose licence is our own.
    """
    if size is None:
        return NANO if directory is None else CUSTOM
    if size not in known_sizes():
        raise CheckpointError(unknown("size", size, known_sizes()))
    if size == NANO and directory is not None:
        raise CheckpointError(f"--size nano is the embedded checkpoint, which {directory} is not: leave --size out")
    return size


def resolve_checkpoint(size: str, directory: Path | None) -> Path:
    """The folder to compile: ``directory`` if given, otherwise the one that ``size`` stands for.

    Raises:
        HubError: the hub is out of reach or the model is gated; the message says how to pass a folder instead.
    """
    if directory is not None or size == NANO:
        # Set before transformers is imported, so that it does not ask the hub about a folder.
        os.environ[OFFLINE] = "1"
        return checkpoint_dir() if directory is None else directory
    return _download(_hub_id(size))


def checkpoint_name(size: str, directory: Path | None) -> str:
    """What the checkpoint is called: its folder's name, its repository's on the hub, or nano."""
    if directory is None:
        return NANO if size == NANO else _hub_id(size).rpartition("/")[2]
    folder = directory.resolve()
    if folder.parent.name == "snapshots":  # of the hub's cache, where a folder is called after its commit
        return folder.parents[1].name.rpartition("--")[2]
    return folder.name


def _hub_id(size: str) -> str:
    """The repository that a published size is made from."""
    published = {size: family().published for family in FAMILIES.values() for size in family().published.sizes}
    if size not in published:
        raise CheckpointError("the bundle was compiled from a folder of its own: pass it with --checkpoint DIR")
    return published[size].hub_id(size)


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
