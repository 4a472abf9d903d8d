"""Kill a compile at random moments, let it go on, and compare what comes out with a compile that nobody disturbed.

    python benchmarks/kill_resume.py --kills 5 -- --size nano --runtime litert

What follows ``--`` goes to ``g3n-compile``. Prints each moment, what was kept after it, and the files' hashes; exits
non-zero when one differs.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from rich.console import Console

from g3n_compiler.checkpoint.reader import file_sha256

COMPILE = (sys.executable, "-m", "g3n_compiler.cli.compile")
KEPT = re.compile(r"(\S+): kept from a compile")


def run(arguments: tuple[str, ...], out: Path, kill_after: float | None = None) -> tuple[float, str]:
    """Compile to ``out``; returns the seconds it lived and what it said. ``kill_after`` seconds it gets SIGKILL."""
    start = time.perf_counter()
    child = subprocess.Popen([*COMPILE, *arguments, "--out", str(out)], stderr=subprocess.PIPE, text=True)
    try:
        _, said = child.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGKILL)
        _, said = child.communicate()
        return time.perf_counter() - start, said
    if child.returncode != 0:
        raise SystemExit(f"the compile failed:\n{said}")
    return time.perf_counter() - start, said


def hashes(bundle: Path) -> dict[str, str]:
    return {p.name: file_sha256(p) for p in sorted(bundle.iterdir()) if p.is_file()}


@click.command()
@click.option("--kills", default=5, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to compile [default: a temporary folder].")
@click.argument("arguments", nargs=-1)
def main(kills: int, seed: int, folder: Path | None, arguments: tuple[str, ...]) -> None:
    """Compile once undisturbed and once with kills, ARGUMENTS being those of g3n-compile, and compare."""
    console, moments = Console(width=120, highlight=False), random.Random(seed)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        # One name for both: it is in the manifest.
        whole, killed = Path(scratch) / "whole" / "bundle", Path(scratch) / "killed" / "bundle"
        seconds, _ = run(arguments, whole)
        console.print(f"undisturbed: {seconds:.0f} s")
        # Moments of one compile: each life lasts from the one before to its own, so that none comes after the end.
        ends = sorted(moments.uniform(0, seconds) for _ in range(kills))
        for begin, end in zip([0.0, *ends], ends, strict=False):
            lived, said = run(arguments, killed, end - begin)
            console.print(f"killed after {lived:.0f} s; kept before it: {', '.join(KEPT.findall(said)) or 'nothing'}")
            if killed.exists():
                console.print("that was too late, it was done: begun anew")
                shutil.rmtree(killed)
        seconds, said = run(arguments, killed)
        console.print(f"resumed: {seconds:.0f} s; kept: {', '.join(KEPT.findall(said)) or 'nothing'}")
        wanted, got = hashes(whole), hashes(killed)
        left = [p.name for p in killed.parent.iterdir() if p != killed]
    for name in sorted(wanted | got):
        console.print(f"{name}: {'the same' if wanted.get(name) == got.get(name) else 'DIFFERS'} {wanted.get(name)}")
    if wanted != got or left:
        raise SystemExit(f"not the same bundle, or something was left: {left}")


if __name__ == "__main__":
    main()
