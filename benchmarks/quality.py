"""Held-out perplexity of nano: ``transformers`` float32 against the bundles of both runtimes.

    python benchmarks/quality.py [--documents 100]

Compiles each recipe for both runtimes into a scratch folder, runs the same documents teacher-forced through every
artifact, and prints the table that the README shows. Each document counts from its bos on, bos itself not.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
from rich.console import Console

from g3n_compiler.checkpoint.reader import Checkpoint
from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.cli.common import quiet_toolchains
from g3n_compiler.compile import CompileOptions, compile_bundle
from g3n_compiler.lower.registry import BACKENDS, get_backend
from g3n_compiler.nano import checkpoint_dir, heldout_path
from g3n_compiler.quantize.recipe import get_recipe
from g3n_compiler.verify.reference import Reference, hf_logits, load_hf

LogitsOf = Callable[[Sequence[int]], np.ndarray]
CONTEXT = 1024


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
@click.option("--documents", default=100, show_default=True, help="Held-out documents, the first so many.")
@click.option("--recipes", default="int8,int4", show_default=True)
def main(documents: int, recipes: str) -> None:
    """Print the table."""
    checkpoint = Checkpoint(checkpoint_dir())
    tokenizer = load_tokenizer(checkpoint.directory, checkpoint.text)
    lines = heldout_path().read_text(encoding="utf-8").splitlines()[:documents]
    texts = [[tokenizer.bos_id, *tokenizer.encode(json.loads(line)["text"])][:CONTEXT] for line in lines]
    console = Console(width=120)
    hf = load_hf(checkpoint)
    full = perplexity(lambda ids: hf_logits(hf, ids).numpy(), texts)
    console.print(f"{len(texts)} documents, {sum(map(len, texts)) - len(texts)} tokens\n")
    console.print("| | runtime | perplexity | against fp32 |\n|---|---|---|---|")
    console.print(f"| fp32 | transformers, eager | {full:.3f} | |")
    naive = Reference(checkpoint, get_recipe("int4-rtn"))
    rows = [("int4 round-to-nearest everywhere", "fake-quant", perplexity(lambda i: naive.logits(i).numpy(), texts))]
    for recipe in recipes.split(","):
        reference = Reference(checkpoint, get_recipe(recipe))
        rows.append((recipe, "fake-quant", perplexity(lambda i, r=reference: r.logits(i).numpy(), texts)))  # type: ignore[misc]
        with tempfile.TemporaryDirectory() as folder, quiet_toolchains():
            options = CompileOptions(recipe=recipe, context=CONTEXT, out=Path(folder) / "bundle")
            bundle = compile_bundle(options, lambda line: None)
            for runtime in BACKENDS:
                model = next(iter(get_backend(runtime).open_models(bundle).values()))
                rows.append((recipe, runtime, perplexity(model.logits, texts)))
                del model
    for recipe, runtime, value in rows:
        console.print(f"| {recipe} | {runtime} | {value:.3f} | {100 * (value / full - 1):+.2f}% |")


if __name__ == "__main__":
    main()
