"""Only what is ours to the last file may be replaced: all else is found, named, and left as it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from g3n_compiler.bundle.owned import account
from g3n_compiler.errors import NotOurs
from tests.bundle.folders import SMALL, content, write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    write_folder(made, {"weights": b"1" * 1000, "sub/table": b"2" * 1000})
    return made


def test_a_folder_of_ours_is_accounted_for_and_removed(folder: Path) -> None:
    account(folder, SMALL).remove()
    assert not folder.exists()


def test_a_part_that_is_missing_loses_nothing(folder: Path) -> None:
    (folder / "weights").unlink()
    account(folder, SMALL).remove()
    assert not folder.exists()


def replace_by_link(folder: Path) -> None:
    (folder / "weights").rename(folder.parent / "weights")
    (folder / "weights").symlink_to(folder.parent / "weights")


def replace_folder_by_link(folder: Path) -> None:
    (folder / "sub").rename(folder.parent / "sub")
    (folder / "sub").symlink_to(folder.parent / "sub")


FOREIGN: list[tuple[str, Callable[[Path], object]]] = [
    ("notes.txt", lambda f: (f / "notes.txt").write_text("mine", encoding="utf-8")),
    ("sub/notes.txt", lambda f: (f / "sub" / "notes.txt").write_text("mine", encoding="utf-8")),
    (".hidden", lambda f: (f / ".hidden").touch()),
    ("empty", lambda f: (f / "empty").mkdir()),
    ("tree", lambda f: (f / "tree" / "deep").mkdir(parents=True)),
    (".cache", lambda f: (f / ".cache").mkdir()),
    ("weights", lambda f: (f / "weights").write_bytes(b"1" * 999 + b"2")),
    ("weights", lambda f: (f / "weights").write_bytes(b"1" * 999)),
    ("sub/table", lambda f: (f / "sub" / "table").write_bytes(b"")),
    ("weights", replace_by_link),
    ("sub", replace_folder_by_link),
    ("dangling", lambda f: (f / "dangling").symlink_to("nowhere")),
    ("pipe", lambda f: os.mkfifo(f / "pipe")),
    (r"a\nb", lambda f: (f / "a\nb").touch()),
    (r"\x1b[2J", lambda f: (f / "\x1b[2J").touch()),
    ("Weights", lambda f: (f / "Weights").touch()),
]


@pytest.mark.parametrize(("name", "change"), FOREIGN)
def test_anything_else_is_named_and_stays(folder: Path, name: str, change: Callable[[Path], object]) -> None:
    change(folder)
    before = content(folder)
    with pytest.raises(NotOurs) as caught:
        account(folder, SMALL)
    assert f"{name} in it" in str(caught.value) and "choose another --out" in str(caught.value)
    assert content(folder) == before


@pytest.mark.parametrize(("name", "change"), FOREIGN)
def test_what_changes_after_the_proof_is_seen(folder: Path, name: str, change: Callable[[Path], object]) -> None:
    found = account(folder, SMALL)
    change(folder)
    with pytest.raises(NotOurs, match="meanwhile"):
        found.require_unchanged()


def test_a_file_written_in_place_with_its_old_time_is_seen(folder: Path) -> None:
    found, times = account(folder, SMALL), (folder / "weights").stat()
    with (folder / "weights").open("r+b") as file:
        file.write(b"x")
    os.utime(folder / "weights", ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(NotOurs, match="weights in it changed meanwhile"):
        found.require_unchanged()


def test_what_appears_while_it_is_removed_stays(folder: Path) -> None:
    found = account(folder, SMALL)
    (folder / "sub" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(NotOurs, match="they were left in place"):
        found.remove()
    assert (folder / "sub" / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_a_hard_link_elsewhere_keeps_its_bytes(folder: Path) -> None:
    os.link(folder / "weights", folder.parent / "kept")
    account(folder, SMALL).remove()
    assert (folder.parent / "kept").read_bytes() == b"1" * 1000
