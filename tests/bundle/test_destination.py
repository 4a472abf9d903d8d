"""Where a result may go: what is refused before any work, and what a link at ``--out`` means."""

from __future__ import annotations

from pathlib import Path

import pytest

from g3n_compiler.bundle.destination import claim
from g3n_compiler.bundle.staging import staged
from g3n_compiler.errors import DiskError, NotOurs
from tests.bundle.folders import SMALL, content, names, write_folder

KEY = "0123456789abcdef0123"


def write(out: Path, data: bytes = b"new") -> None:
    with staged(claim(out, SMALL), KEY) as (directory, _):
        write_folder(directory, {"weights": data})


@pytest.mark.parametrize(
    ("out", "match"),
    [
        ("", "does not name a folder"),
        (".", "does not name a folder"),
        ("..", "does not name a folder"),
        ("a/..", "does not name a folder"),
        ("/", "does not name a folder"),
        ("a\nb", "control character"),
        ("a\x1b[2J", "control character"),
        ("a\0b", "control character"),
        ("a\udcff", "control character"),
        ("-rf", "dash at its start"),
        ("x" * 250, "too long"),
        (".a.g3n-work", "named like a work folder"),
        (".a.g3n-work/bundle", "where g3n works"),
        (".a.g3n-work/old", "where g3n works"),
        (".a.g3n-work/steps/b/c", "where g3n works"),
        ("to-work/bundle", "where g3n works"),
        ("file", "is not a folder"),
        ("file/in", "file is not a folder"),
        ("/proc", "mount point"),
        ("loop", "leads to itself"),
        ("named-root", "does not name a folder"),
        ("to-file", "is not a folder"),
        ("to-foreign", "no record"),
    ],
)
def test_refused_at_the_start(out: str, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine", encoding="utf-8")
    Path("loop").symlink_to("loop")
    Path("named-root").symlink_to("/")
    Path("to-file").symlink_to("file")
    Path("foreign").mkdir()
    Path("foreign", "notes.txt").write_text("mine", encoding="utf-8")
    Path("to-foreign").symlink_to("foreign")
    Path("to-work").symlink_to(".a.g3n-work")
    before = content(tmp_path)
    with pytest.raises(DiskError, match=match):
        claim(Path(out), SMALL)
    assert content(tmp_path) == before


def test_what_is_read_is_not_written_over(tmp_path: Path) -> None:
    checkpoint = tmp_path / "models" / "checkpoint"
    checkpoint.mkdir(parents=True)
    examples = tmp_path / "words" / "examples.jsonl"
    examples.parent.mkdir()
    examples.touch()
    (tmp_path / "alias").symlink_to(checkpoint)
    for out in (
        checkpoint, tmp_path / "models", checkpoint / "out", checkpoint / "a" / "b", tmp_path / "alias",
        tmp_path / "alias" / "out", tmp_path / "words",
    ):  # fmt: skip
        with pytest.raises(DiskError, match="in or around"):
            claim(out, SMALL, (checkpoint, examples))
    left = tmp_path / ".out.g3n-work" / "bundle"
    left.mkdir(parents=True)
    with pytest.raises(DiskError, match="is in the work folder"):
        claim(tmp_path / "out", SMALL, (left,))
    claim(tmp_path / "words" / "out", SMALL, (checkpoint, examples))
    claim(tmp_path / "models" / "checkpoint-2", SMALL, (checkpoint, examples))


def test_a_link_to_a_folder_of_ours_is_followed(tmp_path: Path) -> None:
    write(tmp_path / "disk" / "real", b"old")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "real")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "real" / "weights").read_bytes() == b"new"
    assert names(tmp_path) == ["disk", "link"] and names(tmp_path / "disk") == ["real"]


def test_a_dangling_link_is_followed_to_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("later/bundle")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "later" / "bundle" / "weights").read_bytes() == b"new"


def test_a_link_on_the_way_that_is_changed_meanwhile(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "way").symlink_to("one")
    with staged(claim(tmp_path / "way" / "bundle", SMALL), KEY) as (directory, _):
        write_folder(directory, {"weights": b"new"})
        (tmp_path / "way").unlink()
        (tmp_path / "way").symlink_to("two")
    assert (tmp_path / "one" / "bundle" / "weights").read_bytes() == b"new" and not names(tmp_path / "two")


def test_a_link_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(NotOurs, match="appeared"), staged(claim(tmp_path / "bundle", SMALL), KEY) as (directory, _):
        write_folder(directory, {"weights": b"new"})
        (tmp_path / "bundle").symlink_to("mine")
    assert (tmp_path / "bundle").is_symlink() and not names(tmp_path / "mine")
    (tmp_path / "bundle").unlink()
    write(tmp_path / "bundle")
    assert names(tmp_path) == ["bundle", "mine"]
