"""What rounding costs checkpoints that compute the same as nano: perplexity, divergence and first choices, by recipe.

    python benchmarks/rounding.py compiler/g3n_compiler/nano/checkpoint PLANTED... [--documents 60]

Each folder is a checkpoint with nano's tokenizer that computes the same function as the first, such as one in which
outliers were planted, or one that ``g3n-calibrate`` made of such. Each is measured by the recipe's reference, against
the first in float32, as it is and with its weights rewritten, on nano's held-out documents; the table is that of
``docs/quality.md``. What has been measured is kept, so that the command can be interrupted and run again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

import click
import torch
from rich.console import Console
from torch import Tensor

from g3n_compiler.checkpoint.calibrated import read_calibration
from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.cli.common import reports_errors
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.nano import heldout_path
from g3n_compiler.quantize.recipe import get_recipe
from g3n_compiler.source import TEXT, Source
from g3n_compiler.verify.reference import Reference

FORMS = (("int8", False), ("int8", True), ("int4", False), ("int4", True))
"""Recipes, each without and with rewritten weights."""
Figures = dict[str, float]


def documents_of(source: Source, count: int) -> list[list[int]]:
    """Token ids of the first held-out documents, bos first."""
    tokenizer = load_tokenizer(source.directory, gemma3n_config(source.text))
    lines = heldout_path().read_text(encoding="utf-8").splitlines()[:count]
    return [[tokenizer.bos_id, *tokenizer.encode(json.loads(line)["text"])] for line in lines]


def predictions(reference: Reference, documents: Sequence[Sequence[int]]) -> list[Tensor]:
    """Log probabilities ``[T, vocab]`` of each document's tokens but the first."""
    return [torch.log_softmax(reference.logits(ids[:-1]), -1) for ids in documents]


def figures(exact: Sequence[Tensor], got: Sequence[Tensor], documents: Sequence[Sequence[int]]) -> Figures:
    """Perplexity, divergence in nats and share of the same first choices, per token."""
    nats = divergence = same = 0.0
    for p, q, ids in zip(exact, got, documents, strict=True):
        nats -= float(q[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].sum())
        divergence += float((p.exp() * (p - q)).sum())
        same += float((p.argmax(-1) == q.argmax(-1)).sum())
    count = sum(len(ids) - 1 for ids in documents)
    return {"perplexity": math.exp(nats / count), "divergence": divergence / count, "same": same / count}


def forms_of(source: Source) -> list[tuple[str, bool]]:
    """What a checkpoint is measured in; a calibrated one only as it was calibrated."""
    record = read_calibration(source.directory)
    return [*FORMS] if record is None else [(record.recipe, False)]


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--documents", default=60, show_default=True, help="Held-out documents, the first so many.")
@click.option("--kept", type=click.Path(path_type=Path), default=Path("rounding.json"), show_default=True)
@reports_errors
def main(folders: tuple[Path, ...], documents: int, kept: Path) -> None:
    """Print the table for checkpoints in FOLDERS, of which the first is taken in float32 for the truth."""
    found: dict[str, Figures] = json.loads(kept.read_text("utf-8")) if kept.is_file() else {}
    sources = [Source.open(folder, modalities=(TEXT,)) for folder in folders]
    texts = documents_of(sources[0], documents)
    truth = sources[0].checkpoint.sha256()
    exact = predictions(Reference(sources[0]), texts)
    full = figures(exact, exact, texts)["perplexity"]
    console = Console(width=140)
    console.print(f"{len(texts)} documents, {sum(map(len, texts)) - len(texts)} tokens; float32: {full:.3f}\n")
    console.print(
        "| checkpoint | recipe | perplexity | lost | divergence | same first choice |\n|---|---|---|---|---|---|"
    )
    for folder, source in zip(folders, sources, strict=True):
        for recipe, rewritten in forms_of(source):
            inputs = [truth, source.checkpoint.sha256(), recipe, rewritten, texts]
            key = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
            if key not in found:
                reference = Reference(source.rewritten() if rewritten else source, get_recipe(recipe))
                found[key] = figures(exact, predictions(reference, texts), texts)
                kept.write_text(json.dumps(found), encoding="utf-8")
            own, how = found[key], ", rewritten" if rewritten else ""
            how += ", calibrated" if read_calibration(folder) is not None else ""
            lost = 100 * (own["perplexity"] / full - 1)
            console.print(
                f"| {folder.name} | {recipe}{how} | {own['perplexity']:.3f} | {lost:+.2f}% | {own['divergence']:.4f} "
                f"| {100 * own['same']:.1f}% |"
            )


if __name__ == "__main__":
    main()
