"""Find the checkpoint: a folder the user names, the embedded nano, or the hub's repository for a size."""

from __future__ import annotations

from pathlib import Path

from g3n_compiler.errors import CheckpointError, HubError
from g3n_compiler.nano import checkpoint_dir

HUB_IDS = {"e2b": "google/gemma-3n-E2B-it", "e4b": "google/gemma-3n-E4B-it"}
SIZES = ("nano", *HUB_IDS)
PATTERNS = ("*.json", "*.safetensors", "*.model", "*.jinja")
"""What is downloaded: no code, no pickles."""


def resolve_checkpoint(size: str, directory: Path | None) -> Path:
    """The folder to compile: ``directory`` if given, else the one that ``size`` stands for.

    Raises:
        HubError: the hub is out of reach or the model is gated; says how to pass a folder instead.
    """
    if directory is not None:
        return directory
    if size == "nano":
        return checkpoint_dir()
    if size not in HUB_IDS:
        raise CheckpointError(f"unknown size {size!r}, expected one of {', '.join(SIZES)}")
    return _download(HUB_IDS[size])


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
