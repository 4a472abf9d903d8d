"""The process that calls the readers: one that a parser ends, or that hangs in one, is replaced.

A reader must return or raise a :class:`G3nError` within bounds of time and memory, and leave no file behind.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import linecache
import os
import pickle
import re
import resource
import signal
import sys
import sysconfig
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

from tests.fuzz.case import Case, contents, lay_out, remove
from tests.fuzz.outcome import Limits, Outcome
from tests.fuzz.reader import Reader

MEMORY = 500 << 20
"""Above what was resident before the case."""
ADDRESS_SPACE = 6 << 30
"""Above what was mapped before the first case, so that no case can take the machine's memory."""
LAST_BYTES = 20_000
"""Of what a process said before it ended."""
OTHERS = ("case/adb/", "tmp/torchinductor_", "home/.cache/g3n")
"""What the device of a push writes, a folder of PyTorch's, and our own documented cache."""
IMPORTS = sysconfig.get_paths()["purelib"]


class TooSlow(BaseException):
    """Not an :class:`Exception`, so that no reader takes it for one of its own."""


class Server:
    """Runs cases as they come in over a connection."""

    def __init__(self, connection: Connection, scratch: Path, seeds: Path, registry: str, limits: Limits) -> None:
        self._connection, self._scratch, self._seeds = connection, scratch, seeds
        self._known: dict[str, Reader] = importlib.import_module(registry).READERS
        self._limits = limits
        self._readers: dict[str, Callable[[Path], object]] = {}

    def serve(self) -> None:
        while True:
            try:
                name, case = self._connection.recv()
            except EOFError:
                return
            self._connection.send(self._run(name, case))

    def _run(self, name: str, case: Case | None) -> Outcome:
        if name not in self._readers:
            self._readers[name] = self._known[name].open()
            mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE, resource.RLIM_INFINITY))
        if case is None:
            return Outcome("read")
        folder = self._scratch / "case"
        lay_out(case, self._seeds / name.replace("/", "_"), folder)
        before = contents(self._scratch)
        try:
            run = self._forked if self._known[name].guarded_by else self._watched
            outcome = run(self._readers[name], folder)
        finally:
            os.chdir(self._scratch)
        left = {
            n for n in set(contents(self._scratch)) - set(before) if not n.startswith(OTHERS) and n != "home/.cache"
        }
        if outcome.verdict in ("read", "refused") and left:
            outcome = Outcome("failed", f"left {sorted(left)[:3]} behind", "files left behind")
        remove(folder)
        for left_name in left:
            path = self._scratch / left_name
            with contextlib.suppress(OSError):
                remove(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        return outcome

    def _forked(self, read: Callable[[Path], object], folder: Path) -> Outcome:
        """As :meth:`_watched` in a copy of this process: after the end of this one all would be imported again."""
        os.truncate(self._scratch / "log", 0)
        receiver, sender = os.pipe()
        pid = os.fork()
        if pid == 0:
            with os.fdopen(sender, "wb") as file:
                pickle.dump(self._watched(read, folder), file)
            os._exit(0)
        os.close(sender)
        with os.fdopen(receiver, "rb") as file:
            sent = file.read()
        _, status = os.waitpid(pid, 0)
        if sent:
            return pickle.loads(sent)
        return ended_by(self._scratch / "log", os.WTERMSIG(status) if os.WIFSIGNALED(status) else None)

    def _watched(self, read: Callable[[Path], object], folder: Path) -> Outcome:
        from g3n_runtime.errors import G3nError
        from tests.fuzz.readers_device import Refused

        faulthandler.dump_traceback_later(self._limits.wall_seconds, exit=True)
        _forget_peak()
        resident, start = _status("VmRSS"), time.process_time()
        outcome = Outcome("read")
        try:
            with _cpu_limit(self._limits.cpu_seconds):
                read(folder)
        except (G3nError, Refused) as error:
            outcome = Outcome("refused", str(error), type(error).__name__, _parser(error.__context__))
        except TooSlow as error:
            outcome = Outcome(
                "failed", f"more than {self._limits.cpu_seconds:g} s of CPU", f"too slow at {_where(error)}"
            )
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            text = "".join(traceback.format_exception(error, limit=-12))
            outcome = Outcome("failed", text[-6000:], f"{type(error).__name__} at {_where(error)}", _parser(error))
        faulthandler.cancel_dump_traceback_later()
        seconds, memory = time.process_time() - start, _status("VmHWM") - resident
        if outcome.verdict in ("read", "refused") and memory > MEMORY:
            outcome = Outcome("failed", f"{memory >> 20} MB more than before ({outcome.what[:200]})", "too much memory")
        if memory > MEMORY // 4:
            gc.collect()
        return Outcome(outcome.verdict, outcome.what, outcome.where, outcome.parser, seconds, memory)


@contextlib.contextmanager
def _cpu_limit(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    """A size of ``/proc/self/status`` in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) << 10
    raise ValueError(name)


def _frames(found: TracebackType | None) -> list[tuple[str, int]]:
    return [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(found)]


def _where(error: BaseException) -> str:
    """The innermost line of this repository, and the innermost of all where that is another."""
    frames = [f for f in _frames(error.__traceback__) if f[0] != __file__]
    ours = [f for f in frames if IMPORTS not in f[0] and "g3n" in f[0]] or frames
    place = "/".join(Path(ours[-1][0]).parts[-2:]) if ours else "?"
    return f"{place}:{ours[-1][1]}" if ours else place


def _parser(error: BaseException | None) -> str:
    """The library that raised ``error``; empty where it was our own code."""
    if error is None:
        return ""
    for path, _ in _frames(error.__traceback__):
        if IMPORTS in path:
            return Path(path).relative_to(path[: path.index(IMPORTS)] + IMPORTS).parts[0].removesuffix(".py")
    module = type(error).__module__.partition(".")[0]
    if module not in ("builtins", "json", "g3n_runtime", "g3n_compiler", "tests", "struct", "subprocess", "zlib"):
        return module
    frames = _frames(error.__traceback__)
    return library_at(*frames[-1]) if frames else ""


def ended_by(log: Path, number: int | None) -> Outcome:
    """What ended a process by the signal ``number``, or made it hang, as :mod:`faulthandler` left it in ``log``."""
    said = log.read_bytes()[-LAST_BYTES:].decode(errors="replace")
    frames = re.findall(r'File "([^"]+)", line (\d+) in', said)
    parser = next((found for path, line in frames[:12] if (found := library_at(path, int(line)))), "unknown")
    how = "a hang" if number is None else f"signal {number}"
    at = f"{'/'.join(Path(frames[0][0]).parts[-2:])}:{frames[0][1]}" if frames else "?"
    return Outcome("ended" if number else "failed", said[-6000:], f"{how} in {parser} at {at}", parser)


NATIVE = {
    "Tokenizer.": "tokenizers",
    "ModelProto": "protobuf",
    "SentencePiece": "sentencepiece",
    "ModelInfo": "litert_lm",
    "litert_lm.": "litert_lm",
    "load_program": "executorch",
    "load_method": "executorch",
    ".execute(": "executorch",
    "soundfile.": "soundfile",
    "file.read(": "soundfile",
    "resample_chunk": "soxr",
    "Image.": "PIL",
}
"""Calls of libraries that leave no frame of Python, and whose they are."""


def library_at(path: str, line: int) -> str:
    """The library that a line calls without a frame of its own; empty where none is known."""
    if IMPORTS in path:
        return path.partition(IMPORTS + "/")[2].partition("/")[0]
    text = linecache.getline(path, line)
    return next((library for call, library in NATIVE.items() if call in text), "")


def main() -> None:
    connection, scratch, seeds, registry = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    faulthandler.enable()
    os.chdir(scratch)
    limits = Limits(float(sys.argv[5]), float(sys.argv[6]))
    Server(Connection(connection), scratch, seeds, registry, limits).serve()


if __name__ == "__main__":
    main()
