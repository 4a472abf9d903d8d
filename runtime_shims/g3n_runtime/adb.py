"""One device behind ``adb``, whose every answer is bounded in time and in size and read strictly.

Needs ``adb`` (Android's platform tools) and a device with Android 8 or later, whose shell reports exit codes.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

from g3n_runtime.errors import AdbError, BundleError
from g3n_runtime.reading import open_regular

CHUNK = 1 << 20
MOST_SAID = 1 << 20
"""Bytes of an answer; the longest that is needed, a list of mounts, has a few thousand."""
QUERY_SECONDS = 60.0
HASH_SECONDS = 1800.0
INSTALL_SECONDS = 600.0
_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@%\[\]-]{0,199}")


class Said(NamedTuple):
    """How a call of adb ended."""

    code: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        """What it said last, which says why it failed."""
        lines = (self.err.strip() or self.out.strip()).splitlines()
        return lines[-1][:200] if lines else f"exit code {self.code}"


class Adb:
    """One device behind ``adb``.

    Args:
        program: the adb executable.
        serial: the device; may be left out when one is connected.
        patience: seconds to wait for an answer, and for the next byte to be taken while a file is copied.

    Raises:
        AdbError: no adb, no device, several devices and no serial, or a device that does not let us in.
    """

    def __init__(self, program: str = "adb", serial: str | None = None, patience: float = QUERY_SECONDS) -> None:
        found = shutil.which(program)
        if found is None:
            raise AdbError(f"{program} was not found: install Android's platform tools, or name it with --adb")
        self._program, self._patience = str(Path(found).absolute()), patience
        self.serial = self._choose(serial)

    def shell(self, command: str, seconds: float | None = None) -> str:
        """What ``command`` prints on the device; raises :class:`AdbError` when it fails."""
        said = self._run(["-s", self.serial, "shell", "-n", command], seconds or self._patience)
        if said.code != 0:
            raise AdbError(f"{command.split()[0]} failed on {self.serial}: {said.last_line}")
        return said.out

    def not_understood(self, command: str, said: str) -> NoReturn:
        """Raise :class:`AdbError`: ``said`` is no answer to ``command``."""
        raise AdbError(f"{self.serial} does not answer as an Android device does: {command} gave {said[:80]!r}")

    def append(self, source: Path, offset: int, target: str, report: Callable[[int], None]) -> None:
        """Append ``source`` from byte ``offset`` on to ``target``; ``report`` gets the bytes of each write."""
        command = [self._program, "-s", self.serial, "shell", "-T", f"cat >> {shlex.quote(target)}"]
        with open_regular(source, BundleError) as file, _Child(command, subprocess.PIPE) as child:
            file.seek(offset)
            try:
                while block := file.read(CHUNK):
                    child.write(block, self._patience, report)
                child.close_input()
            except BrokenPipeError:
                pass  # said by the exit code below
            said = child.end(self._patience)
        if said.code != 0:
            reason = (said.out.strip() or said.err.strip()).splitlines()[-1:] or ["the connection was lost"]
            raise AdbError(f"copying {source.name} broke off ({reason[0][:200]}): run the command again to resume")

    def install(self, apk: Path) -> None:
        """Install or update the app."""
        open_regular(apk, AdbError).close()
        said = self._run(["-s", self.serial, "install", "-r", str(apk.absolute())], INSTALL_SECONDS)
        if said.code != 0 or "Success" not in said.out:
            raise AdbError(f"{apk.name} was not installed: {said.last_line}")

    def _choose(self, serial: str | None) -> str:
        said = self._run(["devices"], self._patience)
        if said.code != 0:
            raise AdbError(f"adb does not start: {said.last_line}")
        rows = (line.split("\t", 1) for line in said.out.splitlines() if "\t" in line)
        states = {name: state.strip() for name, state in rows if _SERIAL.fullmatch(name)}
        if serial is not None and serial not in states:
            raise AdbError(f"adb sees no device {serial}: it sees {', '.join(states)[:200] or 'none'}")
        if not states:
            raise AdbError(
                "adb sees no device: connect one by cable and switch on USB debugging in its developer options"
            )
        if serial is None and len(states) > 1:
            raise AdbError(f"adb sees {len(states)} devices ({', '.join(states)[:200]}): choose one with --serial")
        chosen = serial or next(iter(states))
        if states[chosen] != "device":
            advice = {
                "unauthorized": "unlock it and allow USB debugging for this computer",
                "offline": "plug it in again",
            }.get(states[chosen], "see adb devices")
            raise AdbError(f"{chosen} is {states[chosen][:80]}: {advice}")
        return chosen

    def _run(self, arguments: list[str], seconds: float) -> Said:
        with _Child([self._program, *arguments], subprocess.DEVNULL) as child:
            return child.end(seconds)


class _Child:
    """A running adb; whatever it does, it ends with the block and says no more than :data:`MOST_SAID` bytes."""

    def __init__(self, command: list[str], stdin: int) -> None:
        try:
            self._process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except (OSError, ValueError) as error:
            raise AdbError(f"{command[0]} does not start ({error})") from None
        assert self._process.stdout is not None and self._process.stderr is not None
        self._readers = [_Reader(stream, self._process) for stream in (self._process.stdout, self._process.stderr)]
        if self._process.stdin is not None:
            os.set_blocking(self._process.stdin.fileno(), False)

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()  # nothing is buffered: writes go past it

    def write(self, block: bytes, seconds: float, report: Callable[[int], None]) -> None:
        """Hand all of ``block`` over; raises :class:`AdbError` when nothing is taken for ``seconds``."""
        assert self._process.stdin is not None
        rest, fd = memoryview(block), self._process.stdin.fileno()
        while rest:
            if not select.select([], [fd], [], seconds)[1]:
                raise AdbError(
                    f"the device took nothing for {seconds:.0f} s: plug it in again and run the command again"
                )
            written = os.write(fd, rest[: 1 << 16])
            report(written)
            rest = rest[written:]

    def close_input(self) -> None:
        """Tell the child that there is no more."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def end(self, seconds: float) -> Said:
        """Wait for the end; raises :class:`AdbError` when it does not come within ``seconds`` or too much is said."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AdbError(f"adb gave no answer within {seconds:.0f} s: plug the device in again") from None
        out, err = (reader.text() for reader in self._readers)
        return Said(code, out, err)


class _Reader(threading.Thread):
    """Reads what a child says, so that it never waits for us, and ends a child that says too much."""

    def __init__(self, stream: IO[bytes], process: subprocess.Popen[bytes]) -> None:
        super().__init__(daemon=True)
        self._stream, self._process = stream, process
        self._said, self._flooded = b"", False
        self.start()

    def run(self) -> None:
        with self._stream:
            while block := os.read(self._stream.fileno(), 1 << 16):
                self._said += block
                if len(self._said) > MOST_SAID:
                    self._flooded = True
                    self._process.kill()
                    return

    def text(self) -> str:
        """All that was said; a grandchild that keeps the pipe open, such as adb's server, is not waited for."""
        self.join(1)
        if self._flooded:
            raise AdbError(f"adb said more than {MOST_SAID} bytes: that is not adb, or not an Android device")
        return self._said.decode(errors="replace")
