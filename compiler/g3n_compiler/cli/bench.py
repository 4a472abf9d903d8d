"""``g3n-bench``: speed and peak memory of a bundle in its stock engines on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from g3n_compiler.cli.common import reports_errors
from g3n_compiler.cli.guard import GuardedCommand
from g3n_compiler.cli.options import BACKEND, CONTEXT, MOST_TOKENS, QUIET, THREADS, VERBOSE, FileName
from g3n_compiler.cli.show import DataTable, progress_steps, show_table
from g3n_compiler.errors import ContextError
from g3n_compiler.lower.registry import BACKENDS
from g3n_compiler.report import human_bytes
from g3n_compiler.report.memory import ON_GPU
from g3n_runtime.bundle import open_bundle
from g3n_runtime.chat import Device, Placement
from g3n_runtime.measure import Measurement, measure_bundle

FIGURES = (
    "load",
    "first token",
    "prefill tok/s",
    "decode tok/s",
    "peak",
    "of it Python's",
    "by the ledger",
    "anonymous",
    "file-backed",
)


def _foreseen(ledger: dict[str, Any], run: str, backend: Device) -> int | None:
    """Peak bytes of text by the ledger, which leaves Python out; older ledgers do not know of GPUs."""
    if backend == "gpu":
        held = ledger.get("phases", {}).get(ON_GPU)
        return None if held is None else sum(held.values())
    if run == "first" and "first_run" in ledger:
        return int(ledger["first_run"]["peak"])
    return int(max(ledger["peak"][phase] for phase in ("load", "prefill", "decode")))


@click.command(
    cls=GuardedCommand,
    examples=[
        ("g3n-bench exported/nano-host-int4", "all runtimes that the bundle has"),
        ("g3n-bench exported/nano-host-int4 --runtime litert --threads 4 --format json", "one of them, as JSON"),
    ],
)
@click.argument("bundle", type=FileName())
@click.option("--runtime", type=click.Choice(list(BACKENDS)), help="Engine [default: all that the bundle has].")
@click.option("--prompt-tokens", type=click.IntRange(2, MOST_TOKENS), default=128, show_default=True)
@click.option("--decode-tokens", type=click.IntRange(2, MOST_TOKENS), default=64, show_default=True)
@click.option("--threads", type=THREADS, default=2, show_default=True)
@BACKEND
@CONTEXT
@click.option("--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@QUIET
@VERBOSE
@reports_errors
def main(
    bundle: Path,
    runtime: str | None,
    prompt_tokens: int,
    decode_tokens: int,
    threads: int,
    backend: Device,
    context: int | None,
    output: str,
    quiet: bool,
    verbose: bool,
) -> None:
    """Measure prefill, decode, time to first token, load and peak memory, each runtime twice in a fresh process.

    The first run may write an engine's weight cache, so it is shown apart from the second.
    """
    opened = open_bundle(bundle)
    room = min(context or opened.manifest["context"], opened.manifest["context"])
    if prompt_tokens + decode_tokens > room:
        raise ContextError(f"{prompt_tokens} + {decode_tokens} tokens do not fit the context of {room}")

    def measured(name: str) -> Measurement:
        where = Placement(backend)
        return measure_bundle(opened, name, prompt_tokens, decode_tokens, threads, verbose, where, context)

    runs: list[tuple[str, Measurement]] = []
    with progress_steps(quiet) as step:
        for name in opened.runtimes if runtime is None else (runtime,):
            for run in ("first", "later"):
                step(f"{name}: {run} run")
                runs.append((run, measured(name)))
    if output == "json":
        click.echo(json.dumps([{"run": run, **asdict(m)} for run, m in runs]))
        return
    table = DataTable(
        f"{prompt_tokens} prompt tokens, {decode_tokens} generated, {threads} threads", "runtime", "run", right=FIGURES
    )
    for run, m in runs:
        foreseen = _foreseen(opened.manifest["memory"][m.runtime], run, backend)
        table.add_row(
            m.runtime,
            run,
            f"{m.speed.load_seconds:.2f} s",
            f"{m.speed.first_token_seconds:.3f} s",
            f"{m.speed.prefill_per_second:.0f}",
            f"{m.speed.decode_per_second:.1f}",
            human_bytes(m.memory.total),
            human_bytes(m.interpreter),
            "-" if foreseen is None else human_bytes(foreseen),
            human_bytes(m.memory.anonymous),
            human_bytes(m.memory.file_backed),
        )
    show_table(table)


if __name__ == "__main__":
    main()
