"""Hostile and broken input for every reader, for as long as asked: what it did with each, and what it let through.

    python benchmarks/fuzz.py                          # every reader for a minute, two at a time
    python benchmarks/fuzz.py --seconds 240 --reader image --reader sound
    python benchmarks/fuzz.py --replay build/fuzz/image-0123456789ab.json

A reader must read a case or refuse it with an error of ours, within bounds of time and memory, and leave nothing
behind. Readers run in a child process: a library that ends it is named. That is a failure too, but where the commands
run in a child themselves and say so. The exit code is 1 when there is any failure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tests.fuzz.pool import Child
from tests.fuzz.registry import READERS
from tests.fuzz.search import BATCH, Tally, read_case, search

KEEP = Path("build") / "fuzz"
EVERY = 20.0
"""Seconds between two lines of progress of a reader."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="for each reader [60]")
    parser.add_argument("--reader", action="append", choices=sorted(READERS), help="repeatable [all]")
    parser.add_argument("--jobs", type=int, default=2, help="readers at a time [2]")
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same cases [0]")
    parser.add_argument("--keep", type=Path, default=KEEP, help=f"where failing cases are written [{KEEP}]")
    parser.add_argument("--replay", type=Path, help="run one kept case again")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.replay:
        return replay(arguments.replay)
    if arguments.worker:
        return work(arguments.worker, arguments.seconds, arguments.seed, arguments.keep)
    names = arguments.reader or list(READERS)
    console = Console(width=140, highlight=False)
    say = Progress()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        found = dict(zip(names, pool.map(lambda name: in_process(name, arguments, say), names), strict=True))
    show(console, found)
    return int(any(result is None or result["failures"] for result in found.values()))


class Progress:
    """Lines of several readers on stderr, one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, line: str) -> None:
        with self._lock:
            sys.stderr.write(line.rstrip("\n") + "\n")
            sys.stderr.flush()


def in_process(name: str, arguments: argparse.Namespace, say: Progress) -> dict[str, Any] | None:
    """A reader's results from a process of its own, whose progress is passed on."""
    options = ["--seconds", str(arguments.seconds), "--seed", str(arguments.seed), "--keep", str(arguments.keep)]
    command = [sys.executable, __file__, "--worker", name, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None and process.stdout is not None
        for line in process.stderr:
            say(line)
        result = process.stdout.read()
    return json.loads(result) if process.returncode == 0 else None


def work(name: str, seconds: float, seed: int, keep: Path) -> int:
    """Draw and run cases until the time is over; the results go to stdout as JSON."""
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="g3n-fuzz-") as home, Child(Path(home)) as child:
        child.run(name, None)
        begin = said = time.monotonic()

        def more() -> bool:
            nonlocal said
            now = time.monotonic()
            if now - said > EVERY:
                said = now
                sys.stderr.write(f"{name}: {tally.tries:,} tries, {len(tally.failures)} kinds of failure\n")
                sys.stderr.flush()
            return now - begin < seconds

        batch = 0
        while more():
            search(name, child, tally, seed * 1_000_003 + batch, BATCH, keep, more)
            batch += 1
    json.dump(vars(tally), sys.stdout)
    return 0


def show(console: Console, found: dict[str, dict[str, Any] | None]) -> None:
    table = Table(title="Readers", title_justify="left")
    table.add_column("reader")
    headings = ("tries", "read", "refused", "of these by other parsers", "failures of ours", "ended by other parsers")
    for heading in (*headings, "slowest s", "most MB"):
        table.add_column(heading, justify="right")
    total: Counter[str] = Counter()
    refused_by: Counter[str] = Counter()
    ended_by: Counter[str] = Counter()
    for name, result in found.items():
        if result is None:
            table.add_row(name, "the harness itself failed")
            continue
        counts = Counter(result["verdicts"])
        counts["tries"], counts["others"] = result["tries"], sum(result["refused_by"].values())
        total += counts
        refused_by += Counter(result["refused_by"])
        ended_by += Counter(result["ended_by"])
        limits = f"{result['slowest']:.2f}", f"{result['largest'] / 1e6:.0f}"
        table.add_row(name, *row(counts), *limits)
    table.add_section()
    table.add_row("all", *row(total))
    console.print(table)
    for what, counts in (
        ("What ended these parsers that are not ours became an error of ours", refused_by),
        ("These ended the process, which g3n-run, g3n-bench and g3n-verify turn into an error of ours", ended_by),
    ):
        listed = ", ".join(f"{parser} {count:,}" for parser, count in counts.most_common())
        console.print(f"{what}: {escape(listed) or 'none'}")
    for name, result in found.items():
        for where, path in (result or {"endings": {}})["endings"].items():
            console.print(f"{name}: {escape(where)}\n  {path}")
        for where, (count, what, path) in (result or {"failures": {}})["failures"].items():
            console.print(
                f"[bold red]{name}[/]: {escape(where)} ({count} times): {escape(what.strip()[-300:])}\n  {path}"
            )


def row(counts: Counter[str]) -> list[str]:
    return [f"{counts[key]:,}" for key in ("tries", "read", "refused", "others", "failed", "ended")]


def replay(path: Path) -> int:
    """Run a kept case and print what became of it."""
    name, case = read_case(path)
    with tempfile.TemporaryDirectory(prefix="g3n-fuzz-") as home, Child(Path(home)) as child:
        outcome = child.run(name, case)
    Console(highlight=False).print(
        escape(f"{name}: {outcome.verdict} {outcome.where} {outcome.parser}\n{outcome.what}")
    )
    return int(outcome.verdict in ("failed", "ended"))


if __name__ == "__main__":
    sys.exit(main())
