"""What this machine lets a process have: memory within every limit that holds for it, and threads.

A container's limit is a control group's, of version 1 or 2, and any group above may be tighter. Formats:
https://docs.kernel.org/admin-guide/cgroup-v2.html and https://docs.kernel.org/admin-guide/cgroup-v1/memory.html
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import psutil

ROOT = Path("/")
PROC = "proc"
KIB = 1024
MOST_THREADS = 4 * (os.cpu_count() or 1)
"""Of an engine: more than a few for each core only wait for each other."""


class Room(NamedTuple):
    """Memory that new work can have, and what bounds it, in words."""

    nbytes: int
    bound: str


def memory_room(root: Path = ROOT) -> Room:
    """The least of what the machine, each control group of this process and its own limits leave, without swapping.

    Args:
        root: below which ``proc`` and the control groups' mounts are read.
    """
    rooms = [_machine(root / PROC / "meminfo"), *_control_groups(root), *_own_limits(root / PROC / "self")]
    return min(rooms, key=lambda room: room.nbytes)


def _machine(meminfo: Path) -> Room:
    available = _fields(meminfo).get("MemAvailable:")
    if available is None:  # no Linux
        return Room(int(psutil.virtual_memory().available), "the machine")
    return Room(available * KIB, "the machine")


def _control_groups(root: Path) -> Iterator[Room]:
    """A room for each group from the process's own up to the mount's top that has a limit."""
    groups = _group_paths(root / PROC / "self" / "cgroup")
    for mount, top, version in _mounts(root / PROC / "self" / "mountinfo"):
        if version not in groups:
            continue
        folder = root.joinpath(*PurePosixPath(mount).parts[1:])
        # A container sees its own group as the mount's top, under whatever name the group has outside.
        below = _below(groups[version], top)
        for depth in range(len(below), -1, -1):
            group = folder.joinpath(*below[:depth])
            name = "/" + "/".join(below[:depth])
            yield from (_version_2 if version == 2 else _version_1)(group, f"the control group {name}")


def _below(path: str, top: str) -> tuple[str, ...]:
    """Names that lead from a mount whose top is the group ``top`` to the group ``path``; none if it is elsewhere."""
    group, base = PurePosixPath(path), PurePosixPath(top)
    if ".." in group.parts or not group.is_relative_to(base):
        return ()
    return group.relative_to(base).parts


def _version_2(group: Path, name: str) -> Iterator[Room]:
    limits = [limit for file in ("memory.max", "memory.high") if (limit := _number(group / file)) is not None]
    used = _number(group / "memory.current")
    if limits and used is not None:
        stat = _fields(group / "memory.stat")
        cache = sum(stat.get(key, 0) for key in ("inactive_file", "active_file", "slab_reclaimable"))
        yield Room(max(0, min(limits) - max(0, used - cache)), name)


def _version_1(group: Path, name: str) -> Iterator[Room]:
    stat = _fields(group / "memory.stat")
    # What the groups above allow, also those that the mount does not show.
    limits = [_number(group / "memory.limit_in_bytes"), stat.get("hierarchical_memory_limit")]
    used = _number(group / "memory.usage_in_bytes")
    known = [limit for limit in limits if limit is not None]
    if known and used is not None:
        cache = sum(stat.get(key, 0) for key in ("total_inactive_file", "total_active_file"))
        yield Room(max(0, min(known) - max(0, used - cache)), name)


def _own_limits(process: Path) -> Iterator[Room]:
    """The limits that ``ulimit -v`` and ``ulimit -d`` set, less what the process has of them."""
    limits, status = _text(process / "limits"), _fields(process / "status")
    for title, used, name in (
        ("Max address space", "VmSize:", "the process's limit of address space (ulimit -v)"),
        ("Max data size", "VmData:", "the process's limit of data (ulimit -d)"),
    ):
        if (match := re.search(rf"^{title}\s+(\d+)\s", limits, re.MULTILINE)) and used in status:
            yield Room(max(0, int(match[1]) - status[used] * KIB), name)


def _group_paths(path: Path) -> dict[int, str]:
    """The process's group in each hierarchy that may limit memory, by the version of the interface."""
    found: dict[int, str] = {}
    for line in _text(path).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            found[2] = group
        elif "memory" in controllers.split(","):
            found[1] = group
    return found


def _mounts(path: Path) -> Iterator[tuple[str, str, int]]:
    """Where control groups that may limit memory are mounted, the group at the mount's top, and the version."""
    for line in _text(path).splitlines():
        mount, _, source = line.partition(" - ")
        fields, kind = mount.split(" "), source.split(" ")
        if len(fields) < 5 or not kind[0].startswith("cgroup"):
            continue
        top, place = (re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), field) for field in fields[3:5])
        if kind[0] == "cgroup2":
            yield place, top, 2
        elif "memory" in kind[-1].split(","):
            yield place, top, 1


def _fields(path: Path) -> dict[str, int]:
    """``name number`` lines; others are left out."""
    pairs = (line.split() for line in _text(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) >= 2 and re.fullmatch(r"[0-9]{1,20}", pair[1])}


def _number(path: Path) -> int | None:
    """The number in a file; ``None`` where there is no file, or it says ``max``."""
    text = _text(path).strip()
    return int(text) if re.fullmatch(r"[0-9]{1,20}", text) else None


def _text(path: Path) -> str:
    """A file of the kernel's; empty where the system has none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return ""
