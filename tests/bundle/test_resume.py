"""An interrupted compile resumes when it is run again, makes the same bytes and leaves nothing behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from g3n_compiler.bundle.destination import claim
from g3n_compiler.bundle.staging import staged
from g3n_compiler.errors import Busy, TargetError
from g3n_compiler.lower.resume import Steps
from tests.bundle.folders import SMALL, write_record

KEY = "0123456789abcdef0123"
NAMES = ("graph", "core", "table")


def make(destination: Path, kill_in: str | None = None, key: str = KEY) -> list[str]:
    """Write a bundle of three steps; die in the middle of ``kill_in``'s. Returns what was said."""
    said: list[str] = []
    with staged(claim(destination, SMALL), key) as (directory, folder):
        steps = Steps(folder, said.append)
        for name in NAMES:

            def write(path: Path, name: str = name) -> None:
                path.write_bytes(name.encode() * 10)
                if name == kill_in:
                    os.kill(os.getpid(), signal.SIGKILL)
                with path.open("ab") as file:
                    file.write(name.encode() * 10)

            steps.file(name, write, f"writing {name}")
            steps.publish(name, directory / name)
        write_record(directory)
        if kill_in == "rename":
            os.kill(os.getpid(), signal.SIGKILL)
    return said


def killed(work: Callable[[], object]) -> None:
    """Run ``work`` in a process of its own, which must die of SIGKILL."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    """What a compile that nobody kills makes."""
    make(tmp_path / "whole" / "bundle")
    return content(tmp_path / "whole" / "bundle")


@pytest.mark.parametrize(
    ("kill_in", "kept"),
    [("graph", []), ("core", ["graph"]), ("table", ["graph", "core"]), ("rename", ["graph", "core", "table"])],
)
def test_it_goes_on_where_it_was_killed(tmp_path: Path, whole: dict[str, bytes], kill_in: str, kept: list[str]) -> None:
    out = tmp_path / "out"
    killed(lambda: make(out / "bundle", kill_in))
    assert not [p for p in out.iterdir() if not p.name.startswith(".")]
    said = make(out / "bundle")
    assert said == [
        *(f"{name}: reused from an interrupted compile" for name in kept),
        *(f"writing {name}" for name in NAMES if name not in kept),
    ]
    assert content(out / "bundle") == whole
    assert [p.name for p in out.iterdir()] == ["bundle"]


def test_killed_again_and_again(tmp_path: Path, whole: dict[str, bytes]) -> None:
    for kill_in in (*NAMES, "rename"):
        killed(lambda kill_in=kill_in: make(tmp_path / "bundle", kill_in))  # type: ignore[misc]
    make(tmp_path / "bundle")
    assert content(tmp_path / "bundle") == whole


def test_a_file_that_changed_since_is_written_again(tmp_path: Path, whole: dict[str, bytes]) -> None:
    killed(lambda: make(tmp_path / "bundle", "table"))
    core = tmp_path / ".bundle.g3n-work" / "steps" / "core"
    core.write_bytes(core.read_bytes()[:-1] + b"?")
    assert "writing core" in make(tmp_path / "bundle")
    assert content(tmp_path / "bundle") == whole


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", b'{"core": 1}', b'{"core": {"bytes": 80}}', b"\xff" * 9])
@pytest.mark.parametrize("what", ["core", "core.done"])
def test_a_step_that_a_power_cut_damaged_is_made_again(
    tmp_path: Path, whole: dict[str, bytes], what: str, damage: bytes
) -> None:
    killed(lambda: make(tmp_path / "bundle", "table"))
    (tmp_path / ".bundle.g3n-work" / "steps" / what).write_bytes(damage)
    assert "writing core" in make(tmp_path / "bundle")
    assert content(tmp_path / "bundle") == whole


def test_a_file_beside_a_step_is_kept_with_it(tmp_path: Path) -> None:
    said: list[str] = []

    def write(path: Path) -> None:
        path.write_bytes(b"model")
        (tmp_path / "model.json").write_text("{}", encoding="utf-8")

    for kept in (False, True):
        Steps(tmp_path, said.append).file("model", write, "writing", ("model.json",))
        assert said.pop() == ("model: reused from an interrupted compile" if kept else "writing")
    (tmp_path / "model.json").write_bytes(b"")
    Steps(tmp_path, said.append).file("model", write, "writing", ("model.json",))
    assert said == ["writing"] and (tmp_path / "model.json").read_bytes() == b"{}"


def test_a_step_that_was_just_made_is_not_called_kept(tmp_path: Path) -> None:
    said: list[str] = []
    steps = Steps(tmp_path, said.append)
    steps.file("core", lambda path: path.touch(), "writing core")
    steps.file("core", lambda path: path.touch(), "writing core")
    assert said == ["writing core"]


def test_another_compile_takes_nothing_over_and_cleans_up(tmp_path: Path) -> None:
    killed(lambda: make(tmp_path / "bundle", "table"))
    said = make(tmp_path / "bundle", key="another" * 3)
    assert said == [f"writing {name}" for name in NAMES]
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_an_error_of_ours_leaves_nothing_but_an_interruption_does(tmp_path: Path) -> None:
    for error, left in ((TargetError("no"), 0), (KeyboardInterrupt(), 1)):
        with pytest.raises(type(error)), staged(claim(tmp_path / "bundle", SMALL), KEY):
            raise error
        assert len(list(tmp_path.iterdir())) == left


def test_two_compiles_of_one_bundle_at_once(tmp_path: Path) -> None:
    other = claim(tmp_path / "bundle", SMALL)
    with staged(claim(tmp_path / "bundle", SMALL), KEY) as (directory, _):
        write_record(directory)
        for key in (KEY, "another" * 3):
            with pytest.raises(Busy, match="another compile"), staged(other, key):
                pass
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
