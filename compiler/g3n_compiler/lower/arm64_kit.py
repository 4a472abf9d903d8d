"""An emulated aarch64 machine, made by ``make arm64-kit``, on which a backend runs its official aarch64 runtime.

The kit is a folder with an emulator, a small aarch64 system, the runtimes' aarch64 wheels and our two runners.
Emulation is slow: it is meant for bundles of nano's size.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL
from typing import NoReturn, Protocol

import numpy as np

from g3n_compiler.errors import EngineError
from g3n_compiler.lower.opened import TextModel
from g3n_runtime.bundle import Bundle
from g3n_runtime.terminal import printable_line

CPU = "cortex-a76"
TIMEOUT = 1800
LAST_WORDS = 4096
"""How many bytes at the end of a program's output are searched for the reason of its failure."""
UNREADABLE = (OSError, ValueError, KeyError, EOFError, TypeError, MemoryError, zipfile.BadZipFile, zlib.error)
"""Errors that reading incomplete or wrong files from a runner can raise."""


class Text(Protocol):
    """Ids to run; the first ``prompt`` of them are sent as a prompt."""

    @property
    def ids(self) -> Sequence[int]: ...

    @property
    def prompt(self) -> int: ...


@dataclass(frozen=True)
class ArmKit:
    """Where the emulated machine is.

    Raises:
        EngineError: something is missing from it.
    """

    directory: Path

    def __post_init__(self) -> None:
        needed = (self.qemu, self.python, self.litert_runner, self.executorch_runner, self.site / "numpy")
        if missing := [path for path in needed if not path.exists()]:
            raise EngineError(f"{missing[0]} is missing: make the kit with make arm64-kit, or name it with --kit")

    @property
    def qemu(self) -> Path:
        return self.directory / "qemu-aarch64"

    @property
    def tree(self) -> Path:
        return self.directory / "tree"

    @property
    def site(self) -> Path:
        """The aarch64 wheels, unpacked."""
        return self.directory / "site"

    @property
    def python(self) -> Path:
        return self.tree / "usr" / "bin" / "python3.11"

    @property
    def litert_runner(self) -> Path:
        return self.directory / "litert_run.py"

    @property
    def executorch_runner(self) -> Path:
        return self.directory / "g3n_executorch_run"

    def run(self, program: Path, arguments: Sequence[Path | str], environment: dict[str, str]) -> None:
        """Run an aarch64 ``program``; raises :class:`EngineError` with the last line of its output if it fails."""
        settings = [word for name, value in environment.items() for word in ("-E", f"{name}={value}")]
        command = [self.qemu, "-cpu", CPU, "-L", self.tree, *settings, program, *arguments]
        words = [str(word) for word in command]
        # Into a file, of which only the end is read: the output may not fit into memory.
        with tempfile.TemporaryFile() as said:
            try:
                code = subprocess.run(words, stdout=DEVNULL, stderr=said, timeout=TIMEOUT, check=False).returncode
            except subprocess.TimeoutExpired:
                raise EngineError(f"{program.name} took more than {TIMEOUT} s under the emulator") from None
            except OSError as error:
                raise EngineError(f"{self.qemu} cannot be run ({error.strerror}): make the kit again") from None
            if code != 0:
                said.seek(max(0, said.seek(0, os.SEEK_END) - LAST_WORDS))
                last = said.read().decode("utf-8", "replace").strip().splitlines()[-1:] or [f"exit code {code}"]
                raise EngineError(f"{program.name} failed under the emulator: {printable_line(last[0])}")


@dataclass(frozen=True)
class Outputs:
    """What a subgraph computed for the golden inputs; tables are ``None`` where they cannot be read by themselves."""

    logits: list[np.ndarray]
    prefilled: list[np.ndarray]
    greedy: list[int]
    embeddings: np.ndarray | None = None
    ple: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class ArmRun:
    """A model of a bundle, and what it is to compute on the emulated machine."""

    kit: ArmKit
    bundle: Bundle
    entry: str
    """What :meth:`g3n_compiler.lower.opened.TextEntry.open_models` calls the model."""
    model: TextModel
    """The same model on this machine."""
    texts: Sequence[Text]
    greedy: int
    """Tokens to generate after the first of the texts."""
    rows: Sequence[int]
    """Ids whose table rows are read, if the runtime can read a table by itself."""
    scratch: Path
    """A folder for inputs and outputs."""


def refuse_answers(path: Path, error: Exception) -> NoReturn:
    """Raise :class:`EngineError` for results at ``path`` that cannot be read."""
    raise EngineError(
        f"the emulated runner left no readable results ({path.name}: {printable_line(str(error))[:200]}): make "
        "the kit again"
    ) from None
