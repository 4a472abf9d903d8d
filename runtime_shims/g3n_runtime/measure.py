"""Measure a bundle's speed and memory: the engine runs in a child process, whose memory the parent watches.

Memory is read from ``/proc/PID/status`` (Linux), anonymous and file-backed apart, since only the former is lost to
other processes.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from g3n_runtime.bundle import Bundle, open_bundle
from g3n_runtime.chat import ON_CPU, Device, Placement, Speed
from g3n_runtime.engines import PACKAGES, open_engine
from g3n_runtime.errors import EngineError

POLL_SECONDS = 0.02
KIB = 1024


@dataclass(frozen=True)
class PeakMemory:
    """Largest resident bytes seen, each by itself, over the child's life."""

    total: int
    anonymous: int
    file_backed: int


@dataclass(frozen=True)
class Measurement:
    """One run in a fresh process.

    Of its memory ``interpreter`` bytes are Python's and the packages' that lead to the engine: resident before anything
    is opened, and nothing that a phone has or the ledger counts.
    """

    runtime: str
    speed: Speed
    memory: PeakMemory
    interpreter: int


def measure_bundle(
    bundle: Path | Bundle,
    runtime: str,
    prompt_tokens: int,
    decode_tokens: int,
    threads: int = 2,
    verbose: bool = False,
    placement: Placement = ON_CPU,
    context: int | None = None,
) -> Measurement:
    """Load ``bundle`` in a fresh process, run it once and watch its memory.

    The files of one that was opened with its hashes must be the same still, and are not hashed again.

    Args:
        verbose: let what the engine prints on stderr through.
        context: as :func:`g3n_runtime.engines.open_engine` takes it.

    Raises:
        EngineError: the engine failed; its last words are in the message.
    """
    settings = [*(str(n) for n in (prompt_tokens, decode_tokens, threads)), placement.text, placement.vision]
    settings.append(str(context or 0))
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    verified = json.dumps(opened.identities())
    directory = opened.directory
    command = [sys.executable, "-m", "g3n_runtime.measure", str(directory), runtime, *settings, verified]
    stderr = None if verbose else subprocess.PIPE
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    peak = watch(child)
    said, complaints = child.communicate()
    if child.returncode != 0:
        complaints = (complaints or "").strip()
        last = complaints.splitlines()[-1] if complaints else f"exit code {child.returncode}"
        raise EngineError(f"the {runtime} engine failed on {directory.name}: {last}")
    result = json.loads(said.strip().splitlines()[-1])
    return Measurement(runtime, Speed(**result["speed"]), peak, result["interpreter"])


def watch(child: subprocess.Popen[str]) -> PeakMemory:
    """The largest memory of ``child`` until it ends; it must not fill a pipe that nobody reads."""
    peaks = {"VmHWM": 0, "RssAnon": 0, "RssFile": 0}
    while child.poll() is None:
        try:
            now = _memory(child.pid)
        except OSError:
            break
        for name, size in now.items():
            peaks[name] = max(peaks[name], size)
        time.sleep(POLL_SECONDS)
    return PeakMemory(peaks["VmHWM"], peaks["RssAnon"], peaks["RssFile"])


def _memory(process: int) -> dict[str, int]:
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    found = re.findall(r"^(VmHWM|RssAnon|RssFile):\s+(\d+) kB", status, re.MULTILINE)
    return {name: int(kib) * KIB for name, kib in found}


def main(arguments: Sequence[str]) -> None:
    """The child: load, measure, write one line of JSON."""
    directory, runtime, *numbers, text, vision, context, verified = arguments
    prompt_tokens, decode_tokens, threads = map(int, numbers)
    placement = Placement(cast(Device, text), cast(Device, vision))
    bundle = open_bundle(Path(directory), verified=json.loads(verified))
    for package in PACKAGES[runtime]:
        importlib.import_module(package)
    interpreter = _memory(os.getpid())["VmHWM"]
    engine = open_engine(bundle, runtime, threads, placement, int(context) or None)
    speed = engine.measure(prompt_tokens, decode_tokens)
    engine.close()
    sys.stdout.write(json.dumps({"speed": asdict(speed), "interpreter": interpreter}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
