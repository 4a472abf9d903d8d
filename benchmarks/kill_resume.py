"""Kill a compile again and again, let it go on, and compare what comes out with a compile that nobody disturbed.

    python benchmarks/kill_resume.py --kills 5 -- --size nano --runtime litert
    python benchmarks/kill_resume.py --kills 15 --at-steps -- --size nano --runtime both

What follows ``--`` goes to ``g3n-compile``. Kills come at random moments of one compile; with ``--at-steps`` each comes
up to three seconds after a step that no life before it finished, so that on a machine of any speed every life gets on;
there are as many kills then as there are steps, if those are fewer.
Prints each moment, what was kept after it, and the files' hashes; exits non-zero when one differs, or when nothing was
ever kept, since no resuming was seen then.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console

from g3n_compiler.bundle.work import STEPS, work_folder
from g3n_compiler.checkpoint.reader import file_sha256
from g3n_compiler.lower.resume import REUSED

COMPILE = (sys.executable, "-m", "g3n_compiler.cli.compile")
KEPT = re.compile(rf"(\S+): {re.escape(REUSED)}")
AFTER_STEP = 3.0
"""Seconds after a step within which it is killed."""
POLL = 0.05


class Life:
    """One run of the compile, which may be killed."""

    def __init__(self, arguments: tuple[str, ...], out: Path, is_over: Callable[[float], bool] | None = None) -> None:
        start = time.perf_counter()
        with tempfile.TemporaryFile("w+", encoding="utf-8") as stderr:
            child = subprocess.Popen([*COMPILE, *arguments, "--out", str(out)], stderr=stderr)
            self.was_killed = False
            while child.poll() is None:
                if is_over is not None and is_over(time.perf_counter() - start):
                    child.kill()
                    self.was_killed = True
                    child.wait()
                time.sleep(POLL)
            self.seconds = time.perf_counter() - start
            stderr.seek(0)
            said = stderr.read()
        self.kept = KEPT.findall(said)
        if child.returncode != 0 and not self.was_killed:
            raise SystemExit(f"the compile failed:\n{said}")


class NextStep:
    """Whether a step that is not among ``seen`` was finished a while ago."""

    def __init__(self, out: Path, seen: set[str], delay: float) -> None:
        self._folder, self._seen, self._delay = work_folder(out) / STEPS, seen, delay
        self._at: float | None = None

    def __call__(self, now: float) -> bool:
        if self._at is None and (new := {path.name for path in self._folder.glob("*.done")} - self._seen):
            self._seen |= new
            self._at = now
        return self._at is not None and now >= self._at + self._delay


def hashes(bundle: Path) -> dict[str, str]:
    return {p.name: file_sha256(p) for p in sorted(bundle.iterdir()) if p.is_file()}


@click.command()
@click.option("--kills", default=5, show_default=True)
@click.option("--at-steps", is_flag=True, help="After a new step each, rather than at any moment.")
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to compile [default: a temporary folder].")
@click.argument("arguments", nargs=-1)
def main(kills: int, at_steps: bool, seed: int, folder: Path | None, arguments: tuple[str, ...]) -> None:
    """Compile once undisturbed and once with kills, ARGUMENTS being those of g3n-compile, and compare."""
    console, moments = Console(width=120, highlight=False), random.Random(seed)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        # One name for both: it is in the manifest.
        whole, killed = Path(scratch) / "whole" / "bundle", Path(scratch) / "killed" / "bundle"
        seconds = Life(arguments, whole).seconds
        console.print(f"undisturbed: {seconds:.0f} s")
        ever_kept: set[str] = set()
        for is_over in _ends(kills, at_steps, killed, moments, seconds):
            life = Life(arguments, killed, is_over)
            ever_kept |= set(life.kept)
            if at_steps and not life.was_killed:
                console.print("done: there was no further step to kill it after")
                break
            console.print(f"killed after {life.seconds:.0f} s; kept before it: {', '.join(life.kept) or 'nothing'}")
            if killed.exists():
                console.print("that was too late, it was done: begun anew")
                shutil.rmtree(killed)
        last = Life(arguments, killed)
        ever_kept |= set(last.kept)
        console.print(f"resumed: {last.seconds:.0f} s; kept: {', '.join(last.kept) or 'nothing'}")
        wanted, got = hashes(whole), hashes(killed)
        left = [p.name for p in killed.parent.iterdir() if p != killed]
    for name in sorted(wanted | got):
        console.print(f"{name}: {'the same' if wanted.get(name) == got.get(name) else 'DIFFERS'} {wanted.get(name)}")
    if wanted != got or left:
        raise SystemExit(f"not the same bundle, or something was left: {left}")
    if kills and not ever_kept:
        raise SystemExit("the same bundle, but every life ended before its first step was kept: try --at-steps")


def _ends(
    kills: int, at_steps: bool, out: Path, moments: random.Random, seconds: float
) -> list[Callable[[float], bool]]:
    """What tells of each life that it is over."""
    if at_steps:
        seen: set[str] = set()
        return [NextStep(out, seen, moments.uniform(0, AFTER_STEP)) for _ in range(kills)]
    # Moments of one compile: each life lasts from the one before to its own, so that none comes after the end.
    ends = sorted(moments.uniform(0, seconds) for _ in range(kills))
    lives = [end - begin for begin, end in zip([0.0, *ends], ends, strict=False)]
    return [lambda now, most=most: now >= most for most in lives]  # type: ignore[misc]


if __name__ == "__main__":
    main()
