"""The last steps: a kill at each of them leaves the old or the new, whole, and the next start finishes or undoes it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from g3n_compiler.bundle.destination import claim
from g3n_compiler.bundle.exchange import place, swap
from g3n_compiler.bundle.staging import OLD_AWAY, POINTS, System, staged
from g3n_compiler.errors import Busy, NotOurs
from tests.bundle.folders import SMALL, content, names, write_folder

KEY = "0123456789abcdef0123"
OLD, NEW = {"weights": b"old" * 1000}, {"weights": b"new" * 1000, "table": b"t"}


def cannot(one: Path, other: Path) -> bool:
    """A system that does not exchange folders."""
    return False


def write(out: Path, files: dict[str, bytes], key: str = KEY, system: System | None = None) -> None:
    with staged(claim(out, SMALL), key, system) as (directory, _):
        write_folder(directory, files)


def is_whole(folder: Path, files: dict[str, bytes]) -> bool:
    return {name: data for name, data in content(folder).items() if name != "manifest.json"} == files


def killed(work: Callable[[], object]) -> None:
    """Run ``work`` in a process of its own, which must die of SIGKILL."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def kill_at(point: str) -> Callable[[str], None]:
    return lambda reached: os.kill(os.getpid(), signal.SIGKILL) if reached == point else None


@pytest.mark.parametrize("exchange", [swap, cannot])
def test_every_point_is_passed(tmp_path: Path, exchange: Callable[[Path, Path], bool]) -> None:
    write(tmp_path / "out", OLD)
    seen: list[str] = []
    write(tmp_path / "out", NEW, system=System(exchange, seen.append))
    assert [p for p in seen if p != OLD_AWAY] == list(POINTS)
    assert (OLD_AWAY in seen) == (exchange is cannot)
    assert is_whole(tmp_path / "out", NEW) and names(tmp_path) == ["out"]


@pytest.mark.parametrize("exchange", [swap, cannot])
@pytest.mark.parametrize("point", [*POINTS, OLD_AWAY])
def test_killed_where_something_is_replaced(tmp_path: Path, point: str, exchange: Callable[[Path, Path], bool]) -> None:
    if point == OLD_AWAY and exchange is swap:
        return
    out = tmp_path / "out"
    write(out, OLD)
    killed(lambda: write(out, NEW, system=System(exchange, kill_at(point))))
    if point == OLD_AWAY:
        assert not out.exists()  # the one moment in which neither is there
        assert claim(out, SMALL).existing is not None and is_whole(out, OLD)
    assert is_whole(out, OLD) or is_whole(out, NEW)
    assert is_whole(out, NEW) == (POINTS.index(point) >= POINTS.index("exchanged") if point in POINTS else False)
    write(out, NEW, key="another" * 3)
    assert is_whole(out, NEW) and names(tmp_path) == ["out"]


@pytest.mark.parametrize("point", ["written", "moved", "released"])
def test_killed_where_nothing_was(tmp_path: Path, point: str) -> None:
    out = tmp_path / "out"
    killed(lambda: write(out, NEW, system=System(reached=kill_at(point))))
    assert out.exists() == (point == "released")
    write(out, NEW)
    assert is_whole(out, NEW) and names(tmp_path) == ["out"]


@pytest.mark.parametrize("exchange", [swap, cannot])
@pytest.mark.parametrize("point", ["written", "checked"])
def test_a_note_that_is_put_into_the_old_one_meanwhile(
    tmp_path: Path, point: str, exchange: Callable[[Path, Path], bool]
) -> None:
    """Also between the last look and the exchange: it is undone."""
    out = tmp_path / "out"
    write(out, OLD)
    note = {"notes.txt": b"mine"}

    def add(reached: str) -> None:
        if reached == point:
            (out / "notes.txt").write_bytes(b"mine")

    with pytest.raises(NotOurs, match=r"notes\.txt in it appeared meanwhile"):
        write(out, NEW, system=System(exchange, add))
    assert is_whole(out, OLD | note)
    with pytest.raises(NotOurs, match=r"notes\.txt"):
        write(out, NEW)
    (out / "notes.txt").unlink()
    write(out, NEW)
    assert is_whole(out, NEW) and names(tmp_path) == ["out"]


def test_what_a_kill_left_is_not_removed_with_a_note_in_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, OLD)
    killed(lambda: write(out, NEW, system=System(cannot, kill_at(OLD_AWAY))))
    (tmp_path / ".out.g3n-work" / "old" / "notes.txt").write_bytes(b"mine")
    with pytest.raises(NotOurs, match=r"notes\.txt"):
        claim(out, SMALL)
    assert is_whole(out, OLD | {"notes.txt": b"mine"})


def test_what_was_exchanged_before_a_kill_is_not_removed_with_a_note_in_it(tmp_path: Path) -> None:
    out, left = tmp_path / "out", tmp_path / ".out.g3n-work" / "new"
    write(out, OLD)
    killed(lambda: write(out, NEW, system=System(reached=kill_at("exchanged"))))
    (left / "notes.txt").write_bytes(b"mine")
    for _ in range(2):
        with pytest.raises(NotOurs, match=r"notes\.txt"):
            write(out, NEW)
    assert is_whole(out, NEW) and is_whole(left, OLD | {"notes.txt": b"mine"})


def test_a_note_in_a_work_folder_that_a_kill_left(tmp_path: Path) -> None:
    killed(lambda: write(tmp_path / "a", NEW, system=System(reached=kill_at("written"))))
    (tmp_path / ".a.g3n-work" / "notes.txt").write_bytes(b"mine")
    with pytest.raises(NotOurs, match=r"notes\.txt"):
        write(tmp_path / "a", NEW, key="another" * 3)
    assert content(tmp_path / ".a.g3n-work")["notes.txt"] == b"mine"


def test_a_folder_is_not_placed_over_another(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with pytest.raises(FileExistsError):
        place(tmp_path / "one", tmp_path / "two")
    (tmp_path / "one" / "in it").touch()
    assert swap(tmp_path / "one", tmp_path / "two") and (tmp_path / "two" / "in it").exists()


def test_work_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    """The names that once matched a pattern made of ``--out``, and folders of people."""
    for name in (".a.b.0123456789abcdef.work", ".a.notes.work", ".a.old", ".a.b.g3n-work", ".state.0.work", "st"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_bytes(b"years of work")
    before = content(tmp_path)
    for name in ("a", "st*", "[a-z]"):
        write(tmp_path / name, NEW)
        write(tmp_path / name, OLD)
    assert before.items() <= content(tmp_path).items()
    assert {p.name for p in tmp_path.iterdir()} == {
        *before.keys() - {k for k in before if "/" in k},
        "a",
        "st*",
        "[a-z]",
    }


@pytest.mark.parametrize(
    "files",
    [
        {"thesis.txt": b"mine"},
        {"steps/core": b"mine"},
        {"g3n-work.json": b"{}"},
        {"g3n-work.json": b""},
        {"g3n-work.json": b'{"g3n": 1', "steps/core": b"mine"},
    ],
)
def test_a_folder_in_the_place_of_ours(tmp_path: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = tmp_path / ".a.g3n-work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    before = content(tmp_path)
    with pytest.raises(NotOurs, match="where g3n would work"):
        write(tmp_path / "a", NEW)
    assert content(tmp_path) == before


def test_a_work_folder_that_was_renamed_is_not_taken(tmp_path: Path) -> None:
    killed(lambda: write(tmp_path / "b", NEW, system=System(reached=kill_at("written"))))
    (tmp_path / ".b.g3n-work").rename(tmp_path / ".a.g3n-work")
    with pytest.raises(NotOurs, match="for this destination"):
        write(tmp_path / "a", NEW)


def test_a_link_in_the_place_of_the_work_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / ".a.g3n-work").symlink_to("mine")
    with pytest.raises(NotOurs, match="is not a folder"):
        write(tmp_path / "a", NEW)
    assert not names(tmp_path / "mine")


@pytest.mark.parametrize("left", [(), ("g3n-work.json.partial",), ("g3n-owner.json",)])
def test_a_work_folder_that_was_just_begun_is_taken_over(tmp_path: Path, left: tuple[str, ...]) -> None:
    (tmp_path / ".a.g3n-work").mkdir()
    for name in left:
        (tmp_path / ".a.g3n-work" / name).touch()
    write(tmp_path / "a", NEW)
    assert names(tmp_path) == ["a"]


def test_the_lock_names_its_owner(tmp_path: Path) -> None:
    with staged(claim(tmp_path / "a", SMALL), KEY) as (directory, _):
        write_folder(directory, NEW)
        with pytest.raises(Busy, match=f"process {os.getpid()}, since 20"):
            claim(tmp_path / "a", SMALL)
        owner = tmp_path / ".a.g3n-work" / "g3n-owner.json"
        for record in (
            b"",
            b"{}",
            b"[1]",
            b'{"pid": 1e999}',
            owner.read_bytes().replace(b'"started": "', b'"started": "9'),
        ):
            owner.write_bytes(record)
            with pytest.raises(Busy, match="a process that did not say which"):
                claim(tmp_path / "a", SMALL)
    assert names(tmp_path) == ["a"]


def test_a_stale_owner_stops_nobody(tmp_path: Path) -> None:
    killed(lambda: write(tmp_path / "a", NEW, system=System(reached=kill_at("written"))))
    assert b"pid" in (tmp_path / ".a.g3n-work" / "g3n-owner.json").read_bytes()
    write(tmp_path / "a", NEW)
    assert names(tmp_path) == ["a"]


def test_two_that_write_to_different_names_at_once(tmp_path: Path) -> None:
    with staged(claim(tmp_path / "a", SMALL), KEY) as (one, _), staged(claim(tmp_path / "a.b", SMALL), KEY) as (two, _):
        write_folder(one, OLD)
        write_folder(two, NEW)
    assert is_whole(tmp_path / "a", OLD) and is_whole(tmp_path / "a.b", NEW)


def test_one_that_was_claimed_before_another_finished(tmp_path: Path) -> None:
    early = claim(tmp_path / "a", SMALL)
    write(tmp_path / "a", OLD)
    begun = False
    with pytest.raises(NotOurs, match="appeared after the start"), staged(early, KEY):
        begun = True
    assert not begun and is_whole(tmp_path / "a", OLD)
