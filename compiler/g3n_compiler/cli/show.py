"""How the verbs show text. It may come from a manifest, a path, a checkpoint or a device, so it is data: no markup in
it is followed and no character of it controls the terminal. Style is given beside the text, never in it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import click
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from g3n_runtime.terminal import printable, printable_line

TABLE_WIDTH = 140
Style = str


_kept: list[TextIO] = []


def messages() -> TextIO:
    """Where our messages go: stderr, also while that is closed to everybody else."""
    return _kept[-1] if _kept else sys.stderr


@contextmanager
def messages_to(stream: TextIO) -> Iterator[None]:
    """Let our messages go to ``stream``, whatever ``sys.stderr`` is."""
    _kept.append(stream)
    try:
        yield
    finally:
        _kept.remove(stream)


class DataConsole(Console):
    """A console to which every string is data."""

    def __init__(self, *, err: bool = False, **settings: Any) -> None:
        super().__init__(
            markup=False, emoji=False, highlight=False, file=messages() if err else None, stderr=err, **settings
        )

    def render_str(self, text: str, **settings: Any) -> Text:
        """Every string that is printed, also a table's title and cells, comes through here."""
        return super().render_str(printable(text), **settings)


class DataTable(Table):
    """A table whose headings are ours and whose cells are data, one line each."""

    def __init__(self, title: str, *left: str, right: tuple[str, ...] = (), **settings: Any) -> None:
        super().__init__(title=printable_line(title), title_justify="left", **settings)
        for heading in left:
            self.add_column(heading)
        for heading in right:
            self.add_column(heading, justify="right")

    def add_row(self, *cells: RenderableType | None, **settings: Any) -> None:
        """As rich's; strings are shown as they are."""
        super().add_row(*(Text(printable_line(c)) if isinstance(c, str) else c for c in cells), **settings)


def styled(text: str, style: Style) -> Text:
    """Data in a style of ours."""
    return Text(printable(text), style=style)


def show(*parts: str | Text, err: bool = False) -> None:
    """Print one text made of ``parts`` on stdout, or on stderr."""
    text = Text.assemble(*(Text(printable(part)) if isinstance(part, str) else part for part in parts))
    DataConsole(err=err).print(text, soft_wrap=True)


def show_table(table: Table) -> None:
    """Print a table, as wide as the terminal, or wide enough for it where there is none."""
    console = DataConsole()
    (console if console.is_terminal else DataConsole(width=TABLE_WIDTH)).print(table)


def show_error(message: str) -> None:
    """One line on stderr that begins with ``error:``."""
    show(styled("error:", "bold red"), f" {message}", err=True)


def write_answer(piece: str) -> None:
    """A piece of a model's answer: as it is into a pipe or a file, without control over a terminal."""
    click.echo(printable(piece) if sys.stdout.isatty() else piece, nl=False)
    sys.stdout.flush()


Step = Callable[[str], None]


@contextmanager
def progress_steps(quiet: bool = False) -> Iterator[Step]:
    """Yields a function that announces the next step; steps and their times appear on stderr, unless ``quiet``."""
    console = DataConsole(err=True)
    if quiet:
        yield lambda line: None
    elif console.is_terminal:
        with _moving_steps(console) as step:
            yield step
    else:
        with _written_steps(messages()) as step:
            yield step


@contextmanager
def _moving_steps(console: Console) -> Iterator[Step]:
    """For a terminal: what is in work turns."""
    columns = (
        SpinnerColumn(finished_text=Text("done", style="green")),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        current: list[Any] = []

        def step(line: str) -> None:
            if current:
                bars.update(current[-1], total=1, completed=1)
            current.append(bars.add_task(printable_line(line), total=None))

        yield step
        if current:
            bars.update(current[-1], total=1, completed=1)


@contextmanager
def _written_steps(stream: TextIO) -> Iterator[Step]:
    """For a file or a pipe: a line for each step, begun as the step begins and ended with its time when it is done."""
    begun: list[float] = []

    def step(line: str) -> None:
        if begun:
            stream.write(f"  {time.monotonic() - begun.pop():.1f} s\n")
        begun.append(time.monotonic())
        stream.write(printable_line(line))
        stream.flush()

    try:
        yield step
    except BaseException:
        stream.write("\n" if begun else "")
        raise
    if begun:
        stream.write(f"  {time.monotonic() - begun[-1]:.1f} s\n")
    stream.flush()


@contextmanager
def progress_bytes(what: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yields a function that takes the bytes done and the bytes in all of ``what``, shown as a bar on stderr."""
    if quiet:
        yield lambda done, total: None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=DataConsole(err=True)) as bars:
        task = bars.add_task(printable_line(what), total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
