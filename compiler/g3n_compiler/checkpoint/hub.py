"""Find the checkpoint: a folder that the user names, the embedded nano, or a repository on the hub."""

from __future__ import annotations

import os
from pathlib import Path

from g3n_compiler.checkpoint.fields import present
from g3n_compiler.checkpoint.hub_id import OFFLINE, HubId, Named, Say, called, silent
from g3n_compiler.errors import CheckpointError, HubError
from g3n_compiler.models.registry import FAMILIES
from g3n_compiler.nano import checkpoint_dir
from g3n_runtime.names import unknown

NANO = "nano"
CUSTOM = "custom"
"""The manifest's name for a checkpoint folder whose size the user did not name."""


def known_sizes() -> tuple[str, ...]:
    """The embedded checkpoint, and the published models and slices."""
    return (NANO, *(size for family in FAMILIES.values() for size in family().published.sizes))


def name_size(size: str | None, named: Named | None) -> str:
    """The size to compile as: what was asked for, otherwise nano, or :data:`CUSTOM` for a checkpoint that is named.

    Raises:
        CheckpointError: the size is unknown, or a checkpoint was named for ``nano``, whose licence is our own.
    """
    if size is None:
        return NANO if named is None else CUSTOM
    if size not in known_sizes():
        raise CheckpointError(unknown("size", size, known_sizes()))
    if size == NANO and named is not None:
        raise CheckpointError(f"--size nano is the embedded checkpoint, which {named} is not: leave --size out")
    return size


def resolve_checkpoint(size: str, named: Named | None, say: Say = silent) -> Path:
    """The folder to compile: the one that was named, or the one that ``size`` stands for.

    Raises:
        CheckpointError: there is no such folder.
        HubError: the repository cannot be had; the message says why, and what to do.
    """
    if named is None and size == NANO:
        return checkpoint_dir()
    return resolve(HubId(_hub_id(size)) if named is None else named, "checkpoint", say)


def resolve_adapter(named: Named, say: Say = silent) -> Path:
    """As :func:`resolve_checkpoint`, of an adapter."""
    return resolve(named, "adapter", say)


def resolve(named: Named, kind: str, say: Say = silent) -> Path:
    """The folder of what was named, fetched from the hub if need be."""
    if isinstance(named, HubId):
        from g3n_compiler.checkpoint.hub_download import fetch

        return fetch(named, kind, say)
    require_folder(named)
    return named


def resolve_cached(named: Named, kind: str = "checkpoint") -> Path:
    """As :func:`resolve`, but nothing is fetched."""
    if isinstance(named, HubId):
        from g3n_compiler.checkpoint.hub_download import cached

        return cached(named, kind)
    require_folder(named)
    return named


def require_folder(path: Path) -> None:
    """Raise :class:`CheckpointError` unless a folder is at ``path``."""
    if not present(path):
        looked_for = "" if path.is_absolute() else f" (looked for {path.absolute()})"
        raise CheckpointError(
            f"there is no folder {path}{looked_for}, and that is not the name of a repository on the hub, which is "
            "owner/name or owner/name@revision"
        )
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a folder: name the folder that the files are in")


def stay_offline() -> None:
    """From here on nothing in this process, nor what it starts, asks the hub: all that it reads is on the disk.

    Call it when everything is resolved and before ``transformers`` is imported. The next download undoes it.
    """
    from huggingface_hub import get_session, set_client_factory  # it reads OFFLINE, the user's own wish, only once
    from huggingface_hub.errors import OfflineModeIsEnabled

    client = type(get_session())

    def refuse(_: object) -> None:
        raise OfflineModeIsEnabled("a checkpoint that is on the disk needs nothing from the hub")

    set_client_factory(lambda: client(event_hooks={"request": [refuse]}))
    os.environ[OFFLINE] = "1"


def checkpoint_name(size: str, named: Named | None) -> str:
    """What the checkpoint is called: its folder's name, its repository's on the hub, or nano."""
    if named is None:
        return NANO if size == NANO else _hub_id(size).rpartition("/")[2]
    return called(named)


def compiled_from(size: str, origin: HubId | None) -> HubId | None:
    """Where to look for the checkpoint of a bundle if the user names none; ``None`` for what ``size`` stands for.

    Args:
        origin: what the bundle's manifest says.

    Raises:
        HubError: it came from a repository that nobody published a size in, so that the user has to name it.
    """
    if origin is None or size == NANO:
        return None
    if size != CUSTOM and origin.repo == _hub_id(size):
        return origin  # the same commit
    raise HubError(f"the bundle says that it was compiled from {origin}: if you trust that, pass --checkpoint {origin}")


def _hub_id(size: str) -> str:
    """The repository that a published size is made from."""
    published = {size: family().published for family in FAMILIES.values() for size in family().published.sizes}
    if size not in published:
        raise CheckpointError("the bundle was compiled from a folder of its own: pass it with --checkpoint DIR")
    return published[size].hub_id(size)
