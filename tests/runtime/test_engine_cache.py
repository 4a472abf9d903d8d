"""What an engine kept is used only while it is what the engine wrote, for the model that it wrote it for."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from g3n_runtime import engine_cache_folder
from g3n_runtime.engine_cache import EngineCache
from g3n_runtime.open_file import OpenFile

NAME = "weights"
RIGHT = bytes(range(256)) * 64


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("G3N_CACHE_DIR", str(tmp_path / "g3n"))
    return tmp_path / "g3n" / "engines"


def cache(model: str = "a") -> EngineCache:
    return EngineCache("engine-1", model * 64)


def load(model: str = "a", content: bytes = RIGHT) -> tuple[bool, bytes]:
    """What an engine does: use what it was lent, or write it anew; whether it was lent, and what it used."""
    loan = cache(model).lend(0)
    assert loan is not None
    lent = (loan.folder / NAME).exists()
    if not lent:
        (loan.folder / NAME).write_bytes(content)
    used = (loan.folder / NAME).read_bytes()
    assert loan.settle()
    loan.close()
    return lent, used


def kept(model: str = "a") -> tuple[Path, Path]:
    """The kept file and its record."""
    folder = cache(model).folder()
    assert folder is not None
    (data,), (record,) = folder.glob("*.bin"), folder.glob("*.json")
    return data, record


def test_a_later_load_gets_what_an_earlier_one_wrote(root: Path) -> None:
    assert load() == (False, RIGHT)
    assert load() == (True, RIGHT)
    assert load("b", b"other") == (False, b"other")
    assert list((root / "in-use").iterdir()) == []
    assert all(path.stat().st_mode & 0o077 == 0 for path in (root, *root.glob("*/*/"), *kept()[:1]))


def overwrite(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def swap_with_b(data: Path, record: Path) -> None:
    load("b", b"\0" * len(RIGHT))
    other, its_record = kept("b")
    shutil.copyfile(other, data.with_name(other.name))
    overwrite(record, its_record.read_bytes())


def record_names(data: Path, record: Path, **changes: object) -> None:
    overwrite(record, json.dumps(json.loads(record.read_bytes()) | changes).encode())


def in_place_of(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "a flipped bit": lambda d, r: overwrite(d, RIGHT[:-1] + bytes([RIGHT[-1] ^ 1])),
    "cut": lambda d, r: overwrite(d, RIGHT[:-1]),
    "longer": lambda d, r: overwrite(d, RIGHT + b"\0"),
    "empty": lambda d, r: overwrite(d, b""),
    "zeros": lambda d, r: overwrite(d, bytes(len(RIGHT))),
    "missing": lambda d, r: d.unlink(),
    "a folder": lambda d, r: in_place_of(d, lambda p: (p.mkdir(), (p / "x").write_bytes(RIGHT))),
    "a pipe": lambda d, r: in_place_of(d, os.mkfifo),
    "a dangling link": lambda d, r: in_place_of(d, lambda p: p.symlink_to("nowhere")),
    "a link to itself": lambda d, r: in_place_of(d, lambda p: p.symlink_to(p)),
    "a link to the right bytes": lambda d, r: (d.rename(d.with_name("x")), d.symlink_to("x")),
    "a device": lambda d, r: in_place_of(d, lambda p: p.symlink_to("/dev/zero")),
    "another model's, record and all": swap_with_b,
    "another model's under this one's name": lambda d, r: overwrite(d, b"\0" * len(RIGHT)),
    "no record": lambda d, r: r.unlink(),
    "an empty record": lambda d, r: overwrite(r, b""),
    "a record cut": lambda d, r: overwrite(r, r.read_bytes()[:40]),
    "a record that is a list": lambda d, r: overwrite(r, b"[]"),
    "a record nested deeply": lambda d, r: overwrite(r, b"[" * 4000),
    "a record without end": lambda d, r: in_place_of(r, lambda p: p.symlink_to("/dev/zero")),
    "a record that is a pipe": lambda d, r: in_place_of(r, os.mkfifo),
    "a record that is a folder": lambda d, r: in_place_of(r, Path.mkdir),
    "a record that leads out": lambda d, r: record_names(d, r, blake3="../../../../x"),
    "a record of a number": lambda d, r: record_names(d, r, blake3=7),
    "a record of another size": lambda d, r: record_names(d, r, bytes=1),
    "a record of another engine": lambda d, r: record_names(d, r, engine="engine-2"),
    "a record of another name": lambda d, r: record_names(d, r, name="x"),
}


@pytest.mark.parametrize("way", DAMAGES)
def test_what_was_damaged_is_made_again(way: str) -> None:
    load()
    DAMAGES[way](*kept())
    assert load() == (False, RIGHT)
    assert load() == (True, RIGHT)
    kept()


def test_what_a_link_leads_to_stays(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work", encoding="utf-8")
    load()
    data, _ = kept()
    in_place_of(data, lambda p: p.symlink_to(precious))
    (data.parent / "more").symlink_to(precious)
    load()
    assert [p.read_text(encoding="utf-8") for p in precious.iterdir()] == ["years of work"]


def test_a_change_while_the_engine_loads_is_seen() -> None:
    load()
    loan = cache().lend(0)
    assert loan is not None
    data, _ = kept()
    data.chmod(0o600)
    with data.open("r+b") as file:
        file.write(b"wrong")
    assert not loan.settle()
    assert load() == (False, RIGHT)


def test_the_file_that_was_verified_is_the_one_that_is_used() -> None:
    load()
    loan = cache().lend(0)
    assert loan is not None
    overwrite(kept()[0], bytes(len(RIGHT)))
    assert (loan.folder / NAME).read_bytes() == RIGHT
    assert loan.settle()


def test_two_loads_at_once() -> None:
    first, second = cache().lend(0), cache().lend(0)
    assert first is not None and second is not None
    for loan in (first, second):
        (loan.folder / NAME).write_bytes(RIGHT)
    assert first.settle() and load() == (True, RIGHT)
    assert second.settle() and load() == (True, RIGHT)


def test_a_killed_load_leaves_nothing_that_is_used(root: Path) -> None:
    script = (
        "from g3n_runtime.engine_cache import EngineCache\n"
        "loan = EngineCache('engine-1', 'a' * 64).lend(0)\n"
        f"(loan.folder / {NAME!r}).write_bytes(b'half')\n"
        "print(flush=True); import time; time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline()
    assert load("b") == (False, RIGHT)
    assert len(list((root / "in-use").iterdir())) == 1, "a load that goes on keeps its folder"
    child.kill()
    child.wait()
    child.stdout.close()
    assert load() == (False, RIGHT)
    assert list((root / "in-use").iterdir()) == []


def test_a_folder_that_is_not_ours_is_left_alone(root: Path) -> None:
    root.mkdir(mode=0o700, parents=True)
    (root / "notes").write_text("mine", encoding="utf-8")
    assert cache().lend(0) is None
    assert [path.name for path in root.iterdir()] == ["notes"]


def no_room(*given: int) -> None:
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def test_without_a_home_or_room_nothing_is_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache().lend(1 << 60) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "posix_fallocate", no_room)
        assert cache().lend(1) is None
    assert list((root / "in-use").iterdir()) == []
    assert load() == (False, RIGHT)
    monkeypatch.delenv("G3N_CACHE_DIR")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache().lend(0) is None


def test_what_was_not_used_for_longest_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_cache_folder, "MOST_BYTES", 3 * len(RIGHT))
    load("a"), load("b")
    for model, age in (("a", 300), ("b", 600)):
        for path in kept(model):
            os.utime(path, times=(time.time() - age,) * 2)
    load("c")
    assert [load(model)[0] for model in "ac"] == [True, True]
    assert not load("b")[0]


def test_a_file_that_was_not_hashed_shares_nothing(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"one")
    verified, not_hashed = OpenFile(tmp_path / "model"), OpenFile(tmp_path / "model")
    verified.trust("a" * 64)
    assert EngineCache.of("engine", verified).model == "a" * 64
    assert EngineCache.of("engine", not_hashed).model not in ("a" * 64, "")
    os.utime(tmp_path / "model", (1, 1))
    assert EngineCache.of("engine", OpenFile(tmp_path / "model")) != EngineCache.of("engine", not_hashed)
