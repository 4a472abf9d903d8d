"""``g3n-inspect --frontier``: which slices of a checkpoint are worth their bytes."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from g3n_compiler.checkpoint.hub import resolve_cached
from g3n_compiler.checkpoint.hub_id import folder_or_hub
from g3n_compiler.checkpoint.tokenizer import TextTokenizer, load_tokenizer
from g3n_compiler.cli.show import DataTable, progress_steps, show, show_table
from g3n_compiler.errors import CheckpointError
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.nano import SKIPPABLE, checkpoint_dir, heldout_path
from g3n_compiler.quantize.recipe import get_recipe
from g3n_compiler.report import human_bytes
from g3n_compiler.report.frontier import Documents, Point, measure, nested_slices
from g3n_compiler.report.own_file import require_writable
from g3n_compiler.slice.elastic import plan_named
from g3n_compiler.source import TEXT, Source
from g3n_runtime.cache_folder import cache_folder
from g3n_runtime.reading import open_regular, parse_json

RECIPE = "int4"
LONGEST = 512
"""Tokens of a document that are read."""
MAX_LINE_BYTES = 1 << 20
"""Of a document."""
NANO = "nano"


def show_frontier(
    checkpoint: str,
    text: Path | None,
    documents: int,
    slices: tuple[str, ...] | None,
    plot: Path,
    output: str,
    quiet: bool = False,
) -> None:
    """Measure, print and plot the slices of ``checkpoint``, a folder or ``nano``."""
    if plot.suffix not in (".svg", ".png"):
        raise CheckpointError(f"--plot {plot} has the suffix {plot.suffix!r}, expected .svg or .png")
    require_writable(plot)
    directory = checkpoint_dir() if checkpoint == NANO else resolve_cached(folder_or_hub(checkpoint))
    if text is None and directory != checkpoint_dir():
        raise CheckpointError("there is no held-out text for a checkpoint of your own: pass a file with --text")
    source = Source.open(directory, modalities=(TEXT,))
    config = source.text
    source.close()
    named = {name: plan_named(name, config) for name in slices or ()}
    chosen = named or nested_slices(config, SKIPPABLE if directory == checkpoint_dir() else ())
    ids = _documents(text or heldout_path(), documents, load_tokenizer(directory, gemma3n_config(config)))
    with progress_steps(quiet) as step, _cache() as cache:
        points = measure(directory, chosen, ids, get_recipe(RECIPE), cache, len(os.sched_getaffinity(0)), step)
    from g3n_compiler.report.plots import write_frontier

    write_frontier(points, plot)
    if output == "json":
        click.echo(json.dumps([asdict(p) | {"best": not p.dominated_by(points)} for p in points]))
        return
    show_table(_table(points, sum(len(i) - 1 for i in ids)))
    show(f"plot: {plot}")


def _documents(path: Path, count: int, tokenizer: TextTokenizer) -> Documents:
    """The first ``count`` lines of a file: JSON objects with a ``text``, or plain text."""
    texts = list(itertools.islice(_texts(path), count))
    if not texts:
        raise CheckpointError(f"{path} holds no text: expected one document per line")
    loaded = tokenizer.loaded()
    return tuple((loaded.bos_id, *loaded.encode(text)[:LONGEST]) for text in texts)


def _texts(path: Path) -> Iterator[str]:
    """The documents of a file, read as they are asked for: it may be larger than memory."""
    with open_regular(path, CheckpointError) as file:
        for number in itertools.count(1):
            what, line = f"{path}, line {number}", file.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            if len(line) > MAX_LINE_BYTES:
                raise CheckpointError(f"{what} has more than {MAX_LINE_BYTES} bytes: one document per line is read")
            if not line.strip():
                continue
            if path.suffix != ".jsonl":
                try:
                    yield line.decode("utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise CheckpointError(f"{what} is not UTF-8 text ({error.reason})") from None
                continue
            value = parse_json(line, what, CheckpointError)
            if not isinstance(value, dict) or not isinstance(value.get("text"), str):
                raise CheckpointError(f"{what} is not a JSON object with a text")
            yield value["text"]


@contextmanager
def _cache() -> Iterator[Path]:
    """Where measured slices are kept: in our cache, or for this run only where there is none that is safe."""
    if (folder := cache_folder("frontier")) is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


def _table(points: list[Point], tokens: int) -> DataTable:
    figures = ("layers", "parameters", f"{RECIPE} bytes", "nats/token", "against the best", "tok/s")
    table = DataTable(
        f"Slices on {tokens:,} held-out tokens; * no other is as small, as good and as fast", "slice", right=figures
    )
    least = min(p.loss for p in points)
    for p in sorted(points, key=lambda p: (-p.nbytes, p.loss)):
        mark = "" if p.dominated_by(points) else " *"
        cells = (str(p.layers), f"{p.parameters:,}", human_bytes(p.nbytes), f"{p.loss:.4f}", f"{p.loss - least:+.4f}")
        table.add_row(p.name + mark, *cells, f"{p.speed:.0f}")
    return table
