"""Debian packages as data: downloaded by apt without being installed, and unpacked."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path


class PackageError(Exception):
    """A package does not hold what it is needed for."""


def unpacked(packages: Sequence[str], needed: Sequence[str], cache: Path) -> Path:
    """Download ``packages`` into ``cache`` unless they are there; returns the root of the tree that they unpack to.

    Raises:
        PackageError: one of the files ``needed``, by their paths in that tree, is not there.
    """
    cache.mkdir(parents=True, exist_ok=True)
    tree = cache / "tree"
    missing = [name for name in packages if not list(cache.glob(f"{name}_*.deb"))]
    if missing:
        subprocess.run(["apt-get", "download", *missing], cwd=cache, check=True, capture_output=True)
    for name in packages:
        subprocess.run(["dpkg-deb", "-x", str(next(cache.glob(f"{name}_*.deb"))), str(tree)], check=True)
    if absent := [path for path in needed if not (tree / path).is_file()]:
        raise PackageError(f"{tree}: the packages {', '.join(packages)} hold no {absent[0]}")
    return tree
