"""``g3n-inspect``: what is in a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from g3n_compiler.cli.common import NameList, reports_errors, table_console
from g3n_compiler.report import human_bytes
from g3n_runtime.bundle import open_bundle

BAR = 32
"""Characters of the widest FFN."""


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.option("--frontier", metavar="CHECKPOINT", help="Compare slices of a checkpoint folder, or of nano, instead.")
@click.option("--text", type=click.Path(path_type=Path), help="Held-out text of a frontier, a document a line.")
@click.option("--documents", type=click.IntRange(min=1), default=100, show_default=True, help="Lines of it to read.")
@click.option("--slices", type=NameList(), help="Slices of a frontier, as --elastic names them [default: all nested].")
@click.option("--plot", type=click.Path(path_type=Path), default="frontier.svg", show_default=True)
@click.option("--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@reports_errors
def main(
    bundle: Path | None,
    frontier: str | None,
    text: Path | None,
    documents: int,
    slices: tuple[str, ...] | None,
    plot: Path,
    output: str,
) -> None:
    """Show a bundle's subgraphs, placement, bytes, signatures and memory ledger, after checking its hashes.

    With --frontier: held-out loss of a checkpoint's MatFormer slices against their bytes and speed.
    """
    if frontier is not None:
        from g3n_compiler.cli.frontier import show_frontier

        show_frontier(frontier, text, documents, slices, plot, output)
        return
    if bundle is None:
        raise click.UsageError("name a BUNDLE, or a checkpoint with --frontier")
    manifest = open_bundle(bundle).manifest
    if output == "json":
        click.echo(json.dumps(manifest))
        return
    console = table_console()
    model, recipe = manifest["model"], manifest["recipe"]
    console.print(
        f"[bold]{manifest['name']}[/]: Gemma 3n {model['size']}, {', '.join(model['modalities'])}, "
        f"{model['parameters']:,} parameters, {model['slice']['num_layers']} layers, context {manifest['context']}, "
        f"recipe {recipe['name']}, target {manifest['target']['name']}",
        highlight=False,
    )
    if "kept" in model["slice"]:
        console.print(_slice(model["slice"]))
    if "sizes" in manifest:
        console.print(_sizes(manifest["sizes"]))
    console.print(_subgraphs(manifest))
    console.print(_memory(manifest))
    checks = manifest["parity"]["checks"]
    console.print(f"{sum(c['passed'] for c in checks)} of {len(checks)} comparisons passed when it was compiled")


def _slice(made: dict[str, Any]) -> Table:
    """Each layer of the source with its width as a bar: kept in full, narrowed, or skipped."""
    table = Table(title=f"Slice: {made['reason']}", title_justify="left")
    for heading in ("layer", "FFN", ""):
        table.add_column(heading, justify="right" if heading else "left")
    widest = max(made["of"])
    width_of = dict(zip(made["kept"], made["ffn_dims"], strict=True))
    for layer, whole in enumerate(made["of"]):
        width = width_of.get(layer, 0)
        kept, cut = (round(BAR * n / widest) for n in (width, whole - width))
        bar = f"{'█' * kept}{'░' * cut}"
        table.add_row(str(layer), f"{width:,}" if width else "skipped", bar)
    return table


def _sizes(sizes: list[dict[str, Any]]) -> Table:
    """The sizes of an elastic bundle, the stock engine's own first."""
    table = Table(title="Sizes, over the same weights and caches", title_justify="left")
    table.add_column("size")
    for heading in ("layers", "FFN", "parameters", "core bytes", "peak", "relative error"):
        table.add_column(heading, justify="right")
    for s in sizes:
        narrow, wide = min(s["ffn_dims"]), max(s["ffn_dims"])
        width = f"{wide:,}" if narrow == wide else f"{narrow:,} to {wide:,}"
        error = "-" if s["parity"] is None else f"{s['parity']:.2g}"
        parameters, peak = f"{s['parameters']:,}", human_bytes(max(s["peak"].values()))
        layers = str(len(s["layers"]))
        table.add_row(s["name"], layers, width, parameters, human_bytes(s["core_bytes"]), peak, error)
    return table


def _subgraphs(manifest: dict[str, Any]) -> Table:
    table = Table(title="Subgraphs", title_justify="left")
    for heading in ("subgraph", "runtime", "device", "delegate", "signatures"):
        table.add_column(heading)
    for heading in ("bytes", "FLOPs delegated", "relative error"):
        table.add_column(heading, justify="right")
    for s in manifest["subgraphs"]:
        share = "-" if s["delegation"] is None else f"{100 * s['delegation']['flop_share']:.2f}%"
        error = "-" if s["parity"] is None else f"{s['parity']:.2g}"
        names = ", ".join(s["signatures"])
        table.add_row(s["name"], s["runtime"], s["device"], s["backend"], names, human_bytes(s["bytes"]), share, error)
    return table


def _memory(manifest: dict[str, Any]) -> Table:
    table = Table(title="Memory ledger", title_justify="left")
    for heading in ("runtime", "part", "kind"):
        table.add_column(heading)
    table.add_column("bytes", justify="right")
    for runtime, ledger in manifest["memory"].items():
        for part in ledger["parts"]:
            table.add_row(runtime, part["name"], part["kind"], human_bytes(part["bytes"]))
        for phase, peak in ledger["peak"].items():
            table.add_row(runtime, f"peak of {phase}", "", human_bytes(peak))
        if first := ledger.get("first_run"):
            table.add_row(runtime, "peak of the first run", "", human_bytes(first["peak"]))
            table.add_row(runtime, "its cache on the disk", "", human_bytes(first["cache"]))
        table.add_row(runtime, "least device memory", "", human_bytes(ledger["least_device_ram"]), end_section=True)
    return table
