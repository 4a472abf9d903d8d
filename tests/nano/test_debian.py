"""Debian packages as data: unpacked where they are already there, and refused where a file is missing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from nano_training.debian import PackageError, unpacked

CONTROL = "Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: a test\n"


def package(cache: Path, name: str) -> None:
    """Put a package into ``cache`` that holds one file, ``usr/share/NAME``."""
    root = cache / "root" / name
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(CONTROL.format(name=name))
    (root / "usr" / "share").mkdir(parents=True)
    (root / "usr" / "share" / name).write_text(name)
    subprocess.run(["dpkg-deb", "-b", str(root), str(cache / f"{name}_1_all.deb")], check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_packages_that_are_there_are_unpacked_together(tmp_path: Path) -> None:
    for name in ("first", "second"):
        package(tmp_path, name)
    tree = unpacked(["first", "second"], ["usr/share/first", "usr/share/second"], tmp_path)
    assert [path.name for path in sorted((tree / "usr" / "share").iterdir())] == ["first", "second"]
    with pytest.raises(PackageError, match="hold no usr/share/third"):
        unpacked(["first"], ["usr/share/third"], tmp_path)
