"""What choosing rewrites, measuring the loss and choosing widths take for a checkpoint of true size.

    python benchmarks/loss_size.py CHECKPOINT [--parts rewrites,text,towers,widths]

Each part runs in a process of its own, which opens the checkpoint anew; what opening it and its tokenizer takes alone
is a row of its own. Seconds of the processor are told beside those of the clock: they are the same on a busy machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console

from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.cli.common import reports_errors
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.quantize.recipe import get_recipe
from g3n_compiler.source import Source
from g3n_compiler.verify.held import HeldTexts, own_held_texts
from g3n_compiler.verify.measure_loss import measure_loss
from g3n_compiler.verify.tower_loss import measure_towers
from g3n_compiler.widths.effects import measure_effects

SIDES = (768, 512, 256)
GB = 1e9


def opened(folder: Path) -> tuple[Source, HeldTexts]:
    source = Source.open(folder)
    return source, own_held_texts(source, load_tokenizer(folder, gemma3n_config(source.text), source.modalities))


def rewrites(folder: Path) -> None:
    opened(folder)[0].rewritten()


def text(folder: Path) -> None:
    source, held = opened(folder)
    measure_loss(source.rewritten(), get_recipe("int4"), held)


def towers(folder: Path) -> None:
    measure_towers(opened(folder)[0].rewritten(), get_recipe("int4"), SIDES)


def widths(folder: Path) -> None:
    source, held = opened(folder)
    measure_effects(source.rewritten(), held.ids, lambda line: click.echo(line, err=True))


PARTS: dict[str, Callable[[Path], object]] = {
    "opening": opened,
    "rewrites": rewrites,
    "text": text,
    "towers": towers,
    "widths": widths,
}
"""All but the first include choosing rewrites."""


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--parts", default=",".join(PARTS), show_default=True)
@click.option("--alone", is_flag=True, hidden=True, help="Run the one part here.")
@reports_errors
def main(checkpoint: Path, parts: str, alone: bool) -> None:
    """Print seconds and peak memory of each part for CHECKPOINT."""
    if alone:
        PARTS[parts](checkpoint)
        return
    console = Console(width=120)
    console.print("| part | seconds | of the processor | peak memory |\n|---|---|---|---|")
    for part in parts.split(","):
        begin = time.perf_counter()
        child = subprocess.Popen([sys.executable, __file__, str(checkpoint), "--parts", part, "--alone"])
        _, status, used = os.wait4(child.pid, 0)
        if status:
            raise click.ClickException(f"{part} ended with {os.waitstatus_to_exitcode(status)}")
        seconds, busy = time.perf_counter() - begin, used.ru_utime + used.ru_stime
        console.print(f"| {part} | {seconds:.0f} | {busy:.0f} | {used.ru_maxrss * 1024 / GB:.2f} GB |")


if __name__ == "__main__":
    main()
