"""The stock engine over a file that is held open: packed weights that were damaged, files that were swapped."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from g3n_runtime.chat import GREEDY
from g3n_runtime.errors import BundleError, HashMismatch
from g3n_runtime.litert import engine_files
from g3n_runtime.litert.chat import LiteRtChat
from g3n_runtime.litert.engine import LiteRtEngine
from g3n_runtime.litert.header import check_header
from g3n_runtime.open_file import OpenFile
from tests.litert.conftest import Converted

QUESTION = "What is a river?"


@pytest.fixture(scope="module")
def path(converted: Converted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted.pack("int8", tmp_path_factory.mktemp("kept") / "model.litertlm")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("G3N_CACHE_DIR", str(tmp_path / "g3n"))
    return tmp_path / "g3n" / "engines"


def held(path: Path) -> OpenFile:
    file = OpenFile(path)
    file.verify(file.sha256())
    return file


def answer(file: OpenFile) -> str:
    with LiteRtEngine(file, threads=2) as engine:
        return "".join(engine.generate(QUESTION, GREEDY, 12))


@pytest.fixture(scope="module")
def said(path: Path) -> str:
    with LiteRtEngine(path, threads=2) as engine:
        return "".join(engine.generate(QUESTION, GREEDY, 12))


def kept(cache: Path) -> Path:
    (file,) = cache.glob("litert-lm-*/*/*.bin")
    return file


def overwrite(path: Path, change: Callable[[bytearray], object]) -> None:
    content = bytearray(path.read_bytes())
    change(content)
    path.unlink()
    path.write_bytes(content)


def scaled(content: bytearray) -> None:
    """Spoil the weights, and nothing that the engine looks at when it opens the file."""
    for i in range(len(content) // 4, len(content) // 2, 7):
        content[i] ^= 0x55


DAMAGES: dict[str, Callable[[Path], object]] = {
    "spoiled weights": lambda p: overwrite(p, scaled),
    "a flipped bit": lambda p: overwrite(p, lambda c: c.__setitem__(len(c) // 3, c[len(c) // 3] ^ 8)),
    "cut": lambda p: os.truncate(p, p.stat().st_size // 2),
    "zeros": lambda p: overwrite(p, lambda c: c.__setitem__(slice(None), bytes(len(c)))),
    "a folder": lambda p: (p.unlink(), p.mkdir()),
    "a link": lambda p: (p.rename(p.with_name("x")), overwrite(p.with_name("x"), scaled), p.symlink_to("x")),
}


def test_a_damaged_cache_changes_no_answer(path: Path, cache: Path, said: str) -> None:
    assert len(said) > 5 and answer(held(path)) == said
    right = kept(cache).read_bytes()
    for way, damage in DAMAGES.items():
        damage(kept(cache))
        assert answer(held(path)) == said, way
        assert kept(cache).read_bytes() == right, way
    assert list((cache / "in-use").iterdir()) == []


def test_the_engine_takes_what_was_kept(path: Path, cache: Path) -> None:
    """A later load maps the kept file: it was neither packed again nor copied."""
    answer(held(path))
    before = kept(cache).stat()
    with LiteRtEngine(held(path), threads=2):
        maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    assert f" {before.st_ino} " in maps
    assert kept(cache).stat().st_mtime_ns == before.st_mtime_ns


def test_a_cache_of_another_model_of_the_same_size_and_time(
    converted: Converted, path: Path, cache: Path, said: str, tmp_path: Path
) -> None:
    """As a bundle that another one took the place of, which the engine itself cannot tell apart."""
    other = tmp_path / "model.litertlm"
    content = bytearray(path.read_bytes())
    for i in range(len(content) // 2, len(content), 5001):
        content[i] ^= 1
    other.write_bytes(content)
    for file in (path, other):
        os.utime(file, (1_700_000_000,) * 2)
    want = "".join(LiteRtChat(other).send(QUESTION, GREEDY, 12))
    answer(held(path))
    assert answer(held(other)) == want
    mine, its = (next(cache.glob(f"litert-lm-*/{held(file).sha256()}")) for file in (path, other))
    shutil.rmtree(mine)
    its.rename(mine)
    assert answer(held(path)) == said


def test_without_a_cache_folder(path: Path, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("G3N_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    assert answer(held(path)) == said


def test_an_engine_that_fails_with_its_cache_runs_without(
    path: Path, cache: Path, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that is full."""
    monkeypatch.setattr(engine_files.EngineFiles, "_stamped", lambda self, name: name)
    lend = engine_files.EngineCache.lend

    def full(self: engine_files.EngineCache, *given: object) -> object:
        loan = lend(self, *given)  # type: ignore[arg-type]
        if loan is not None:
            status = path.stat()
            (loan.folder / f"model.litertlm_{int(status.st_mtime)}_{status.st_size}.xnnpack_cache").mkdir()
        return loan

    monkeypatch.setattr(engine_files.EngineCache, "lend", full)
    assert answer(held(path)) == said


def test_a_file_swapped_after_its_check_does_not_run(
    converted: Converted, path: Path, cache: Path, said: str, tmp_path: Path
) -> None:
    mine = tmp_path / "model.litertlm"
    shutil.copyfile(path, mine)
    file = held(mine)
    converted.pack("fp32", tmp_path / "other.litertlm").replace(mine)
    assert answer(file) == said
    chat = LiteRtChat(file)
    assert "".join(chat.send(QUESTION, GREEDY, 12)) == said
    chat.close()


def test_a_file_changed_in_place_after_its_check_is_refused(path: Path, cache: Path, tmp_path: Path) -> None:
    mine = tmp_path / "model.litertlm"
    shutil.copyfile(path, mine)
    file = held(mine)
    times = mine.stat()
    with mine.open("r+b") as writer:
        writer.seek(mine.stat().st_size // 2)
        writer.write(b"changed")
    os.utime(mine, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(HashMismatch, match="changed while it was in use"):
        LiteRtEngine(file)


@pytest.mark.parametrize("at", [0, 24, 32])
def test_a_damaged_header_is_an_error_and_no_crash(path: Path, at: int, tmp_path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + 4] = b"\xff\xff\xff\x7f"
    (tmp_path / "model.litertlm").write_bytes(content)
    with pytest.raises(BundleError):
        LiteRtEngine(OpenFile(tmp_path / "model.litertlm"))


def test_any_byte_of_a_header_may_be_damaged(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    (end,) = struct.unpack_from("<Q", content, 24)
    file = tmp_path / "model.litertlm"
    shutil.copyfile(path, file)
    refused = 0
    with file.open("r+b", buffering=0) as writer:
        for at in range(end):
            for value in (0, 1, content[at] ^ 4, 255):
                os.pwrite(writer.fileno(), bytes([value]), at)
                try:
                    check_header(OpenFile(file))
                except BundleError:
                    refused += 1
            os.pwrite(writer.fileno(), content[at : at + 1], at)
    check_header(OpenFile(file))
    assert refused > end
