"""Held-out perplexity of nano, and its tasks: ``transformers`` float32 against bundles, in both runtimes.

    python benchmarks/quality.py exported/nano-host-int8 exported/nano-host-int4 [--documents 100] [--examples 200]

Runs the same documents teacher-forced through every artifact and prints the table of ``docs/quality.md``; each document
counts from its bos on, bos itself not. Divergence and first choices are against float32, per token. Then it asks each
task so many questions, as ``benchmarks/tasks.py`` does. A bundle of another checkpoint than the embedded one is refused
unless ``--planted`` says that it computes the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
import tasks
from lab import PLANTED, figures, predictions, recipe_label, require_nano
from rich.console import Console
from torch import Tensor

from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.cli.common import quiet_toolchains, reports_errors
from g3n_compiler.lower.registry import BACKENDS
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.models.gemma3n.transformers_model import load_hf
from g3n_compiler.nano import checkpoint_dir, heldout_path
from g3n_compiler.quantize.recipe import get_recipe
from g3n_compiler.source import TEXT, Source
from g3n_compiler.verify.reference import Reference, hf_logits
from g3n_runtime.bundle import Bundle, open_bundle


def megabytes(bundle: Bundle, runtime: str) -> float:
    """Of the bundle's files for one runtime: graphs, tables and towers, and in LiteRT's the tokenizer."""
    roles = {graph["role"] for graph in bundle.manifest["subgraphs"] if graph["runtime"] == runtime}
    return sum(entry["bytes"] for entry in bundle.manifest["files"] if entry["role"] in roles) / 1e6


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--documents", default=100, show_default=True, help="Held-out documents, the first so many.")
@click.option("--examples", default=20, show_default=True, help="Of each task; 0 leaves the tasks out.")
@click.option("--kept", type=click.Path(path_type=Path), default=Path("tasks-answers.json"), show_default=True)
@PLANTED
@reports_errors
def main(bundles: tuple[Path, ...], documents: int, examples: int, kept: Path, planted: bool) -> None:
    """Print the table for BUNDLES of nano."""
    source = Source.open(checkpoint_dir(), modalities=(TEXT,))
    opened = [open_bundle(bundle) for bundle in bundles]
    for bundle in () if planted else opened:
        require_nano(bundle)
    tokenizer = load_tokenizer(source.directory, gemma3n_config(source.text))
    lines = heldout_path().read_text(encoding="utf-8").splitlines()[:documents]
    texts = [[tokenizer.bos_id, *tokenizer.encode(json.loads(line)["text"])] for line in lines]
    console = Console(width=160, highlight=False)
    hf = load_hf(source)
    exact = predictions(lambda ids: hf_logits(hf, ids), texts)
    full = figures(exact, exact, texts)["perplexity"]
    console.print(f"{len(texts)} documents, {sum(map(len, texts)) - len(texts)} tokens\n")
    heads = ("recipe", "runtime", "MB", "perplexity", "against fp32", "divergence", "same first choice")
    console.print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    console.print(f"| fp32 | transformers, eager | | {full:.3f} | | | |")

    def row(recipe: str, runtime: str, size: str, got: Sequence[Tensor]) -> None:
        own = figures(exact, got, texts)
        console.print(
            f"| {recipe} | {runtime} | {size} | {own['perplexity']:.3f} | {100 * (own['perplexity'] / full - 1):+.2f}% "
            f"| {own['divergence']:.4f} | {own['same']:.1%} |"
        )

    naive = Reference(source, get_recipe("int4-rtn"))
    row("int4 round-to-nearest everywhere", "fake-quant", "", predictions(naive.logits, texts))
    with quiet_toolchains():
        for bundle in opened:
            for runtime in bundle.runtimes:
                _, model = next(BACKENDS[runtime]().open_models(bundle.paths))  # type: ignore[index]
                size = f"{megabytes(bundle, runtime):.2f}"
                row(recipe_label(bundle), runtime, size, predictions(model.logits, texts))
                del model
    if examples:
        console.print()
        tasks.report(opened, examples, kept, console)


if __name__ == "__main__":
    main()
