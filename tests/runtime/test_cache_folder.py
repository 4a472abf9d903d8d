"""The cache folder is the user's own or none."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from g3n_runtime.cache_folder import cache_folder


def test_where_it_is(tmp_path: Path) -> None:
    home, xdg, named = (tmp_path / name for name in ("home", "xdg", "named"))
    every = {"HOME": str(home), "XDG_CACHE_HOME": str(xdg), "G3N_CACHE_DIR": str(named)}
    assert cache_folder(environ=every) == named
    assert cache_folder(environ=every | {"G3N_CACHE_DIR": ""}) == xdg / "g3n"
    for unset in ("", "relative/path"):
        assert cache_folder(environ={"HOME": str(home), "XDG_CACHE_HOME": unset}) == home / ".cache" / "g3n"
    assert cache_folder(environ={}) is None
    assert not Path("relative").exists()


def test_folders_are_made_for_the_user_alone(tmp_path: Path) -> None:
    folder = cache_folder("engines", "a", environ={"G3N_CACHE_DIR": str(tmp_path / "deep" / "cache")})
    assert folder == tmp_path / "deep" / "cache" / "engines" / "a"
    for made in (folder, *list(folder.parents)[:3]):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700, made


def test_links_are_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / "cache").symlink_to(elsewhere)
    assert cache_folder(environ={"G3N_CACHE_DIR": str(tmp_path / "cache")}) is None
    (tmp_path / "own").mkdir(mode=0o700)
    (tmp_path / "own" / "engines").symlink_to(elsewhere)
    assert cache_folder("engines", environ={"G3N_CACHE_DIR": str(tmp_path / "own")}) is None
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert cache_folder(environ={"G3N_CACHE_DIR": str(tmp_path / "dangling")}) is None
    assert not list(elsewhere.iterdir()) and not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_folder_that_others_can_write_is_none(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(mode)
    assert cache_folder(environ={"G3N_CACHE_DIR": str(folder)}) is None


def test_a_folder_whose_place_others_can_change_is_none(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    assert cache_folder(environ={"G3N_CACHE_DIR": str(shared / "cache")}) is None
    shared.chmod(0o1777)  # as /tmp is: what is ours stays ours
    assert cache_folder(environ={"G3N_CACHE_DIR": str(shared / "cache")}) == shared / "cache"


def test_what_cannot_be_made_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    for path in ("file", "file/below", "a\0b"):
        assert cache_folder(environ={"G3N_CACHE_DIR": f"{tmp_path}/{path}"}) is None
    assert (tmp_path / "file").read_bytes() == b"mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_another_users_folder_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)
    assert cache_folder(environ={"G3N_CACHE_DIR": str(folder)}) is None
