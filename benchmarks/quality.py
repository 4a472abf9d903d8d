"""Held-out perplexity of nano, and its tasks: ``transformers`` float32 against bundles, in both runtimes.

    python benchmarks/quality.py exported/nano-host-int8 exported/nano-host-int4 [--documents 100] [--examples 200]

Runs the same documents teacher-forced through every artifact and prints the table of ``docs/quality.md``; each document
counts from its bos on, bos itself not. Then it asks each task so many questions, as ``benchmarks/tasks.py`` does. A
bundle of another checkpoint than the embedded one is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import tasks
from lab import PLANTED, recipe_label, require_nano
from rich.console import Console

from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.cli.common import quiet_toolchains, reports_errors
from g3n_compiler.lower.registry import BACKENDS
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.models.gemma3n.transformers_model import load_hf
from g3n_compiler.nano import checkpoint_dir, heldout_path
from g3n_compiler.quantize.recipe import get_recipe
from g3n_compiler.source import TEXT, Source
from g3n_compiler.verify.reference import Reference, hf_logits
from g3n_runtime.bundle import open_bundle

LogitsOf = Callable[[Sequence[int]], np.ndarray]


def perplexity(logits_of: LogitsOf, documents: Sequence[Sequence[int]]) -> float:
    """Per token over ``documents`` (ids, bos first); ``logits_of`` gives ``[T, vocab]``."""
    nats = 0.0
    for ids in documents:
        logits = logits_of(ids[:-1]).astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        chosen = logits[np.arange(len(ids) - 1), ids[1:]]
        nats += float((np.log(np.exp(logits).sum(-1)) - chosen).sum())
    return math.exp(nats / sum(len(ids) - 1 for ids in documents))


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
    console = Console(width=120)
    hf = load_hf(source)
    full = perplexity(lambda ids: hf_logits(hf, ids).numpy(), texts)
    naive = Reference(source, get_recipe("int4-rtn"))
    rows = [("int4 round-to-nearest everywhere", "fake-quant", perplexity(lambda i: naive.logits(i).numpy(), texts))]
    with quiet_toolchains():
        for bundle in opened:
            for runtime in bundle.runtimes:
                _, model = next(BACKENDS[runtime]().open_models(bundle.paths))  # type: ignore[index]
                rows.append((recipe_label(bundle), runtime, perplexity(model.logits, texts)))
                del model
    console.print(f"{len(texts)} documents, {sum(map(len, texts)) - len(texts)} tokens\n")
    console.print("| recipe | runtime | perplexity | against fp32 |\n|---|---|---|---|")
    console.print(f"| fp32 | transformers, eager | {full:.3f} | |")
    for recipe, runtime, value in rows:
        console.print(f"| {recipe} | {runtime} | {value:.3f} | {100 * (value / full - 1):+.2f}% |")
    if examples:
        console.print()
        tasks.report(opened, examples, kept, console)


if __name__ == "__main__":
    main()
