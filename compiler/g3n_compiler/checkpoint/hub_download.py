"""Fetch a repository from the hub into the hub's own cache: only files that are read, each whole or not at all.

The official client does the transfers: it continues a file after a broken connection, and moves it into the cache when
it is complete. What it cannot do is reported in our own words, where possible before it costs time: the sizes are
compared with the free space first, and the small files, in which most errors show, come before the weights.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from g3n_compiler.checkpoint.hub_errors import explained
from g3n_compiler.checkpoint.hub_id import OFFLINE, HubId, Say
from g3n_compiler.checkpoint.lora import CONFIG as ADAPTER_CONFIG
from g3n_compiler.checkpoint.lora import TEXT_FILES as ADAPTER_TEXT
from g3n_compiler.checkpoint.lora import WEIGHTS as ADAPTER_WEIGHTS
from g3n_compiler.checkpoint.meter import Meter, in_words
from g3n_compiler.checkpoint.reader import CONFIG, INDEX, READ_BY_NAME, SINGLE
from g3n_compiler.checkpoint.safetensors import MAX_HEADER_BYTES
from g3n_compiler.errors import CheckpointError, DiskError, HubError, OutOfReach, PartialCopy
from g3n_runtime.reading import read_json_object

OPTIONAL = tuple(name for name in READ_BY_NAME if name not in (CONFIG, INDEX, "calibration.json"))
"""Files that a repository need not have, but that change what is compiled."""
_SMALL = re.compile(r"\w[\w.-]*\.(json|jinja)|tokenizer\.model|additional_chat_templates/\w[\w.-]*\.jinja", re.ASCII)
_SHARD = re.compile(r"\w[\w.-]*\.safetensors", re.ASCII)
MOST_SMALL = 1 << 30
"""Bytes of a small file; the largest is Gemma's tokenizer.json with 33 MB."""
WAIT_SECONDS = 30.0
"""For an answer of the hub that is no file."""
Sizes = Mapping[str, int]


def fetch(named: HubId, kind: str, say: Say) -> Path:
    """The folder with the files of a repository, at one commit; what is in the cache already is not fetched again.

    Where the hub is out of reach, a whole copy in the cache is taken, and that is said.

    Raises:
        HubError: why it cannot be had, and what to do.
        CheckpointError: the repository is not what was asked for.
        DiskError: there is too little space for it.
    """
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    if constants.HF_HUB_OFFLINE:
        return cached(named, kind)
    set_client_factory(default_client_factory)  # for the case that stay_offline was called
    say(f"asking the hub for {named}")
    try:
        commit, sizes = _listing(named, kind)
        return _fetch(named, commit, sizes, kind, say)
    except OutOfReach as error:
        try:
            folder = cached(named, kind)
        except PartialCopy as partial:
            raise HubError(f"{error}. The cache holds only a part of {named}: {partial.lacks}") from None
        except HubError:
            raise error from None
        say(f"the hub cannot be asked now, so the copy of commit {folder.name[:12]} in the cache is taken: {error}")
        return folder


def cached(named: HubId, kind: str) -> Path:
    """The folder with a repository's files if all of them are in the cache; nothing is asked of the network.

    Raises:
        HubError: they are not, or only a part of them.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    why = f"{OFFLINE} is set" if constants.HF_HUB_OFFLINE else "nothing was fetched"
    remedy = (
        f"{why}. Fetch it where there is a network (hf download {named.repo}), or pass its folder (--checkpoint DIR)"
    )
    first = ADAPTER_CONFIG if kind == "adapter" else CONFIG
    path = try_to_load_from_cache(named.repo, first, revision=named.revision)
    if not isinstance(path, str):
        raise HubError(f"{named} is not in the hub's cache ({constants.HF_HUB_CACHE}); {remedy}")
    folder = Path(path).parent
    if lacks := _lacks(named, folder, kind):
        raise PartialCopy(f"the cache holds only a part of {named}: {lacks}; {remedy}", lacks)
    return folder


def is_fetched(name: str) -> bool:
    """Whether a file of a repository may be fetched for a checkpoint: no code, no pickles, and of folders only the one
    that transformers reads templates from.
    """
    return (_SMALL.fullmatch(name) or _SHARD.fullmatch(name)) is not None


def _listing(named: HubId, kind: str) -> tuple[str, Sizes]:
    """The commit that is meant, and the size of each file in it that may be fetched."""
    from huggingface_hub import HfApi

    with explained(named):
        info = HfApi().model_info(named.repo, revision=named.revision, files_metadata=True, timeout=WAIT_SECONDS)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    if info.sha is None or not re.fullmatch("[0-9a-f]{40}", info.sha):
        raise HubError(f"the hub's answer names no commit of {named}, as a model hub's would")
    _require_kind(named, kind, sizes)
    return info.sha, sizes


def _require_kind(named: HubId, kind: str, sizes: Sizes) -> None:
    """Raise :class:`CheckpointError` unless the listed files can be what was asked for."""
    if kind == "adapter":
        if ADAPTER_CONFIG not in sizes:
            other = ": it is a checkpoint, which --checkpoint takes" if CONFIG in sizes else ""
            raise CheckpointError(f"{named} has no {ADAPTER_CONFIG}, so it is no PEFT adapter{other}")
        if ADAPTER_WEIGHTS not in sizes:
            raise CheckpointError(f"{named} has no {ADAPTER_WEIGHTS}: only safetensors are read, never pickles")
        return
    if CONFIG not in sizes:
        other = ": it is an adapter, which --lora takes" if ADAPTER_CONFIG in sizes else ""
        raise CheckpointError(f"{named} has no {CONFIG}, so it is no Hugging Face checkpoint{other}")
    if SINGLE not in sizes and INDEX not in sizes:
        kinds = {name.rpartition(".")[2] for name in sizes} & {"bin", "gguf", "litertlm", "task", "pth", "pt", "onnx"}
        has = f" (it has .{', .'.join(sorted(kinds))})" if kinds else ""
        raise CheckpointError(f"{named} has neither {SINGLE} nor {INDEX}{has}: only safetensors are read")


def _fetch(named: HubId, commit: str, sizes: Sizes, kind: str, say: Say) -> Path:
    """Fetch what is missing, small files first."""
    from huggingface_hub import constants, hf_hub_download, snapshot_download

    cache = Path(constants.HF_HUB_CACHE)
    small = _small(sizes, kind)
    with explained(named):
        _require_space(named, _missing_bytes(named, commit, small, sizes), cache)
        # It also writes down which files the commit has and what the branch points to, for when there is no network.
        folder = Path(
            snapshot_download(named.repo, revision=named.revision, allow_patterns=small, tqdm_class=_quiet_bar())
        )
    if folder.name != commit:
        raise HubError(f"{named} was changed while it was being fetched: run the command again")
    weights = _weights(named, folder, sizes, kind)
    needed = _missing_bytes(named, commit, weights, sizes)
    _require_space(named, needed, cache)
    if needed:
        meter = Meter(f"fetching {named} at {commit[:12]}", needed, say)
        for name in weights:
            # In this thread, so that Ctrl-C ends it at once, and one by one, so that it costs at most one file.
            with explained(named, name):
                hf_hub_download(named.repo, name, revision=commit, tqdm_class=_counting_bar(meter))
    return folder


def _small(sizes: Sizes, kind: str) -> list[str]:
    if kind == "adapter":
        text = [name for name in ADAPTER_TEXT if sizes.get(name, MOST_SMALL + 1) <= MOST_SMALL]
        return [ADAPTER_CONFIG, *text]
    names = [name for name in sizes if _SMALL.fullmatch(name) and sizes[name] <= MOST_SMALL]
    # Of two forms of the weights transformers takes the single file; the other is not fetched.
    return sorted(name for name in names if not name.endswith(".index.json") or (name == INDEX and SINGLE not in sizes))


def _weights(named: HubId, folder: Path, sizes: Sizes, kind: str) -> list[str]:
    if kind == "adapter":
        return [ADAPTER_WEIGHTS]
    if SINGLE in sizes:
        return [SINGLE]
    shards = _shards(folder)
    if absent := [name for name in shards if name not in sizes or not _SHARD.fullmatch(name)]:
        raise CheckpointError(f"{INDEX} of {named} names {absent[0][:80]!r}, which the repository does not have")
    return shards


def _shards(folder: Path) -> list[str]:
    """The files that a folder's index names."""
    index = read_json_object(folder / INDEX, CheckpointError, MAX_HEADER_BYTES, infinite=True)
    names = index.get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{folder / INDEX} has no weight_map of tensor names to shard names")
    return sorted(set(names.values()))


def _lacks(named: HubId, folder: Path, kind: str) -> str | None:
    """What a folder of the cache lacks of the repository's files, in words."""
    from huggingface_hub import get_cached_repo_tree, try_to_load_from_cache
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    if kind == "adapter":
        needed = [ADAPTER_WEIGHTS]
    elif (folder / SINGLE).exists():
        needed = []
    else:
        needed = _shards(folder) if (folder / INDEX).exists() else [SINGLE]
    unknown: list[str] = []
    try:
        tree = get_cached_repo_tree(named.repo, revision=folder.name)
        needed += _small({file.path: file.size for file in tree}, kind)
    except CachedRepoTreeNotFoundError:  # another program fetched some files, and noted those that it did not find
        asked = {name: try_to_load_from_cache(named.repo, name, revision=folder.name) for name in OPTIONAL}
        unknown = [] if kind == "adapter" else [name for name, path in asked.items() if path is None]
    if missing := sorted(name for name in needed if not (folder / name).exists()):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        return f"it lacks {', '.join(missing[:3])}{more}"
    return f"nobody asked whether the repository has {', '.join(unknown[:3])}" if unknown else None


def _missing_bytes(named: HubId, commit: str, names: list[str], sizes: Sizes) -> int:
    from huggingface_hub import try_to_load_from_cache

    absent = (n for n in names if not isinstance(try_to_load_from_cache(named.repo, n, revision=commit), str))
    return sum(sizes[name] for name in absent)


def _require_space(named: HubId, needed: int, cache: Path) -> None:
    """Raise :class:`DiskError` unless the cache's disk has room for what is still to be fetched."""
    folder = next(p for p in (cache, *cache.absolute().parents) if p.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskError(
            f"fetching {named} needs {in_words(needed)} in {cache}, but {in_words(free)} are free there: free some, "
            "or set HF_HOME to a folder on a larger disk"
        )


def _quiet_bar() -> Any:
    """The client's bar, never shown."""
    from huggingface_hub.utils import tqdm

    class Quiet(tqdm):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **{**settings, "disable": True})

    return Quiet


def _counting_bar(meter: Meter) -> Any:
    """A bar that is never shown, and reports every byte to ``meter``."""

    class Counting(_quiet_bar()):  # type: ignore[misc]
        def update(self, n: float | None = 1) -> None:
            meter.add(int(n or 0))

    return Counting
