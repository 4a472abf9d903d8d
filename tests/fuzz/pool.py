"""The parent's side of a child that calls the readers: it starts one, sends it cases, and replaces it when it ends."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

from tests.fuzz.case import Case, remove
from tests.fuzz.child import LAST_BYTES, ended_by
from tests.fuzz.outcome import Limits, Outcome
from tests.fuzz.reader import Reader

ROOT = Path(__file__).parents[2]


class Child:
    """A long-lived process of readers.

    Args:
        home: an empty folder for seeds, cases, and what a reader leaves behind.
        registry: the module whose ``READERS`` they are.
    """

    def __init__(self, home: Path, registry: str = "tests.fuzz.registry", limits: Limits | None = None) -> None:
        self.readers: dict[str, Reader] = importlib.import_module(registry).READERS
        self._registry, self._limits = registry, limits or Limits()
        self._scratch, self._seeds = home / "scratch", home / "seeds"
        self._seeds.mkdir(parents=True)
        self._connection: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()

    def seeds(self, name: str) -> Path:
        """The folder of the reader's seeds, made when it is first asked for."""
        folder = self._seeds / name.replace("/", "_")
        if not folder.exists():
            folder.mkdir()
            self.readers[name].make(folder)
        return folder

    def run(self, name: str, case: Case | None) -> Outcome:
        """What the reader does with ``case``; ``None`` only opens it."""
        self.seeds(name)
        if self._process is None:
            self._start()
        assert self._connection is not None and self._process is not None
        log = self._scratch / "log"
        if log.stat().st_size > LAST_BYTES:
            os.truncate(log, 0)
        try:
            self._connection.send((name, case))
            if self._connection.poll(self._limits.wall_seconds * 3 if case is not None else None):
                return self._connection.recv()
        except (EOFError, ConnectionError):
            pass
        return self._ended()

    def _ended(self) -> Outcome:
        assert self._process is not None
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            code = None
        self._stop()
        return ended_by(self._scratch / "log", -code if code and code < 0 else None)

    def _start(self) -> None:
        remove(self._scratch)
        for name in ("home", "tmp"):
            (self._scratch / name).mkdir(parents=True)
        ours, theirs = Pipe()
        limits = self._limits.cpu_seconds, self._limits.wall_seconds
        arguments = (self._scratch, self._seeds, self._registry, *limits)
        path = os.pathsep.join([str(ROOT), str(ROOT / "compiler"), str(ROOT / "runtime_shims")])
        environment = {
            **os.environ,
            "PYTHONPATH": path,
            "TMPDIR": str(self._scratch / "tmp"),
            "HOME": str(self._scratch / "home"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        with (self._scratch / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.child", str(theirs.fileno()), *map(str, arguments)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self._scratch,
            )
        theirs.close()
        self._connection = ours

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None
        remove(self._scratch / "case")
