"""``g3n-inspect``: what is in a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from g3n_compiler.cli.common import reports_errors
from g3n_compiler.cli.options import QUIET, CheckpointName, FileName, NameList, Verb, Words
from g3n_compiler.cli.show import DataTable, show, show_table, styled
from g3n_compiler.report import human_bytes
from g3n_compiler.report.loss import loss_sentence, part_sentences, widths_sentence
from g3n_compiler.report.memory import LABELS, ON_GPU
from g3n_compiler.report.single import single_sentences
from g3n_runtime.bundle import open_bundle

MOST_DOCUMENTS = 1 << 20
BAR = 32
"""Characters of the widest FFN."""


@click.command(
    cls=Verb,
    examples=[
        ("g3n-inspect exported/nano-host-int4", "tables for people"),
        ("g3n-inspect exported/nano-host-int4 --format json", "the manifest, for programs"),
        ("g3n-inspect --checkpoint ~/my-gemma-3n", "what a checkpoint is, and whether it would compile"),
        ("g3n-inspect --frontier nano --documents 20", "which slices of a checkpoint are worth their bytes"),
    ],
    groups={
        "Before compiling": ("checkpoint", "weights"),
        "Comparing slices of a checkpoint": ("frontier", "text", "documents", "slices", "plot"),
    },
)
@click.argument("bundle", type=FileName(), required=False)
@click.option(
    "--checkpoint",
    type=CheckpointName(),
    help="Examine a checkpoint instead: a folder, owner/name[@revision] in the hub's cache, or nano.",
)
@click.option("--weights", is_flag=True, help="With --checkpoint: read every tensor too, for odd values and outliers.")
@click.option(
    "--frontier", type=Words(), metavar="CHECKPOINT", help="Compare slices of a checkpoint folder, or of nano, instead."
)
@click.option("--text", type=FileName(), help="Held-out text of a frontier, one document per line.")
@click.option(
    "--documents", type=click.IntRange(1, MOST_DOCUMENTS), default=100, show_default=True, help="Lines of it to read."
)
@click.option("--slices", type=NameList(), help="Slices of a frontier, as --elastic names them [default: all nested].")
@click.option("--plot", type=FileName(), default="frontier.svg", show_default=True, help="File for the plot.")
@click.option("--recipe", is_flag=True, help="Write the bundle's recipe as JSON, for --quant.")
@click.option("--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@QUIET
@reports_errors
def main(
    bundle: Path | None,
    checkpoint: str | None,
    weights: bool,
    frontier: str | None,
    text: Path | None,
    documents: int,
    slices: tuple[str, ...] | None,
    plot: Path,
    recipe: bool,
    output: str,
    quiet: bool,
) -> None:
    """Show a bundle's subgraphs, placement, bytes, signatures and memory ledger, after checking its hashes.

    With --checkpoint: what a checkpoint is and what of it a compile would refuse, in seconds; the exit code is the
    compile's.

    With --frontier: held-out loss of a checkpoint's MatFormer slices against their bytes and speed.
    """
    if weights and checkpoint is None:
        raise click.UsageError("--weights reads a checkpoint: name it with --checkpoint")
    if recipe and (bundle is None or checkpoint is not None or frontier is not None):
        raise click.UsageError("--recipe writes a bundle's: name a BUNDLE alone")
    if checkpoint is not None:
        if bundle is not None or frontier is not None:
            raise click.UsageError("--checkpoint examines one checkpoint: leave BUNDLE and --frontier out")
        from g3n_compiler.cli.doctor import show_checkpoint

        show_checkpoint(checkpoint, weights, output, quiet)
        return
    if frontier is not None:
        from g3n_compiler.cli.frontier import show_frontier

        show_frontier(frontier, text, documents, slices, plot, output, quiet)
        return
    if bundle is None:
        raise click.UsageError("name a BUNDLE, or a checkpoint with --checkpoint or --frontier")
    manifest = open_bundle(bundle).manifest
    if recipe:
        click.echo(_recipe(manifest))
        return
    if output == "json":
        click.echo(json.dumps(manifest))
        return
    model = manifest["model"]
    show(
        styled(manifest["name"], "bold"),
        f": Gemma 3n {model['size']}, {', '.join(model['modalities'])}, "
        f"{model['parameters']:,} parameters, {model['slice']['num_layers']} layers, context {manifest['context']}, "
        f"recipe {manifest['recipe']['name']}, target {manifest['target']['name']}"
        + (f", adapters up to rank {manifest['lora']['rank']}" if "lora" in manifest else ""),
    )
    if "kept" in model["slice"]:
        show_table(_slice(model["slice"]))
    if "sizes" in manifest:
        show_table(_sizes(manifest["sizes"]))
    show_table(_subgraphs(manifest))
    show_table(_memory(manifest))
    if (widths := widths_sentence(manifest)) is not None:
        show(widths)
    if (lost := loss_sentence(manifest)) is not None:
        show(lost)
    for sentence in [*part_sentences(manifest), *single_sentences(manifest)]:
        show(sentence)
    checks = manifest["parity"]["checks"]
    show(f"{sum(c['passed'] for c in checks)} of {len(checks)} comparisons passed when it was compiled")


def _recipe(manifest: dict[str, Any]) -> str:
    """The bundle's recipe as ``--quant`` takes it from a file."""
    from g3n_compiler.quantize.recipe import RECIPES
    from g3n_compiler.quantize.saved import as_json, recipe_of

    name = manifest["recipe"]["name"]
    if name in RECIPES:
        raise click.UsageError(f"this bundle's recipe has a name: --quant {name}")
    return json.dumps(as_json(recipe_of(manifest)), indent=1)


def _slice(made: dict[str, Any]) -> DataTable:
    """Each layer of the source with its width as a bar: kept in full, narrowed, or skipped."""
    table = DataTable(f"Slice: {made['reason']}", right=("layer", "FFN"))
    table.add_column("")
    widest = max(made["of"])
    width_of = dict(zip(made["kept"], made["ffn_dims"], strict=True))
    for layer, whole in enumerate(made["of"]):
        width = width_of.get(layer, 0)
        kept, cut = (round(BAR * n / widest) for n in (width, whole - width))
        bar = f"{'█' * kept}{'░' * cut}"
        table.add_row(str(layer), f"{width:,}" if width else "skipped", bar)
    return table


def _sizes(sizes: list[dict[str, Any]]) -> DataTable:
    """The sizes of an elastic bundle, the stock engine's own first."""
    figures = ("layers", "FFN", "parameters", "core bytes", "peak", "relative error")
    table = DataTable("Sizes, over the same weights and caches", "size", right=figures)
    for s in sizes:
        narrow, wide = min(s["ffn_dims"]), max(s["ffn_dims"])
        width = f"{wide:,}" if narrow == wide else f"{narrow:,} to {wide:,}"
        error = "-" if s["parity"] is None else f"{s['parity']:.2g}"
        parameters, peak = f"{s['parameters']:,}", human_bytes(max(s["peak"].values()))
        layers = str(len(s["layers"]))
        table.add_row(s["name"], layers, width, parameters, human_bytes(s["core_bytes"]), peak, error)
    return table


def _subgraphs(manifest: dict[str, Any]) -> DataTable:
    names = ("subgraph", "runtime", "device", "delegate", "signatures")
    table = DataTable("Subgraphs", *names, right=("bytes", "FLOPs delegated", "relative error"))
    for s in manifest["subgraphs"]:
        share = "-" if s["delegation"] is None else f"{100 * s['delegation']['flop_share']:.2f}%"
        error = "-" if s["parity"] is None else f"{s['parity']:.2g}"
        signatures = ", ".join(s["signatures"])
        table.add_row(
            s["name"], s["runtime"], s["device"], s["backend"], signatures, human_bytes(s["bytes"]), share, error
        )
    return table


def _memory(manifest: dict[str, Any]) -> DataTable:
    table = DataTable("Memory ledger", "runtime", "part", "kind", right=("bytes",))
    for runtime, ledger in manifest["memory"].items():
        for part in ledger["parts"]:
            table.add_row(runtime, part["name"], part["kind"], human_bytes(part["bytes"]))
        for phase, peak in ledger["peak"].items():
            table.add_row(runtime, f"peak of {phase}", "", human_bytes(peak))
        if first := ledger.get("first_run"):
            table.add_row(runtime, "peak of the first run", "", human_bytes(first["peak"]))
            table.add_row(runtime, "its cache on the disk", "", human_bytes(first["cache"]))
        for name, nbytes in ledger.get("phases", {}).get(ON_GPU, {}).items():
            table.add_row(runtime, LABELS.get(name, name), "text on a GPU", human_bytes(nbytes))
        table.add_row(runtime, "least device memory", "", human_bytes(ledger["least_device_ram"]), end_section=True)
    return table


if __name__ == "__main__":
    main()
