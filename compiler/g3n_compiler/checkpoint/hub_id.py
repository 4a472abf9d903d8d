"""What a user may name for a checkpoint or an adapter: a folder, or a repository on the hub."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from g3n_compiler.checkpoint.fields import present

OFFLINE = "HF_HUB_OFFLINE"
"""The variable with which a user forbids the hub's client every request."""
MAX_ID = 96
"""Characters of a repository's name, as the hub's own client has it."""
_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[\w][\w./+-]*))?", re.ASCII)
_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class HubId:
    """A repository on the hub, at one of its branches, tags or commits; without one, at its newest commit."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


Named = Path | HubId
"""What a user names: a folder or a repository."""
Say = Callable[[str], None]
"""Called with a line on what is being done."""


def silent(_: str) -> None:
    """For callers with nobody to tell."""


def folder_or_hub(text: str) -> Named:
    """What ``--checkpoint`` and ``--lora`` mean by ``text``: whatever is on the disk under that name, otherwise
    ``owner/name`` or ``owner/name@revision`` on the hub, otherwise a folder, which :func:`resolve` will not find.

    ``./owner/name`` and ``/owner/name`` are paths and nothing else.
    """
    path = Path(text)
    if present(path) or (found := _ID.fullmatch(text)) is None:
        return path
    repo = found["repo"]
    fits = len(repo) <= MAX_ID and ".." not in repo and "--" not in repo and not repo.endswith((".git", ".", "-"))
    return HubId(repo, found["revision"]) if fits else path


def named_by(text: str | None) -> Named | None:
    """:func:`folder_or_hub` of an option that may be left out."""
    return None if text is None else folder_or_hub(text)


def called(named: Named) -> str:
    """A folder's or a repository's name, without its owner; for a folder in the hub's cache its repository's."""
    if isinstance(named, HubId):
        return named.repo.rpartition("/")[2]
    folder = named.resolve()
    origin = hub_origin(folder)
    return folder.name if origin is None else origin.repo.rpartition("/")[2]


def hub_origin(directory: Path) -> HubId | None:
    """The repository and the commit of a folder in the hub's cache, where folders are called after them."""
    folder = directory.resolve()
    kind, *names = folder.parents[1].name.split("--") if len(folder.parents) > 1 else [""]
    if folder.parent.name != "snapshots" or kind != "models" or not names:
        return None
    return HubId("/".join(names), folder.name)


def is_commit(revision: str) -> bool:
    """Whether a revision is a whole commit hash, which never comes to mean something else."""
    return _COMMIT.fullmatch(revision) is not None
