"""Readers that are wrong, one in each way that the fuzz test must see."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

from g3n_runtime.errors import EngineError
from tests.fuzz.mutate_bytes import damaged
from tests.fuzz.reader import Reader, files


def _make(folder: Path) -> None:
    (folder / "file").write_bytes(b"seed")


def _reader(name: str, read: Callable[[Path], object]) -> Reader:
    return Reader(name, _make, lambda folder: files("file", damaged([b"seed"])), lambda: read)


def _refuses(folder: Path) -> None:
    raise EngineError("no")


def _escapes(folder: Path) -> None:
    raise KeyError("x")


def _loops(folder: Path) -> None:
    while True:
        pass


def _waits(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "pipe").read_bytes()


def _grows(folder: Path) -> None:
    assert b"x" * (600 << 20)


def _leaves(folder: Path) -> None:
    tempfile.mkstemp()


def _dies(folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


READERS = {
    name: _reader(name, read)
    for name, read in (
        ("reads", lambda folder: None),
        ("refuses", _refuses),
        ("escapes", _escapes),
        ("loops", _loops),
        ("waits", _waits),
        ("grows", _grows),
        ("leaves", _leaves),
        ("dies", _dies),
    )
}
