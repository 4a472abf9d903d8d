"""What rounding costs checkpoints that compute the same as nano: perplexity, divergence, first choices and tasks.

    python benchmarks/rounding.py compiler/g3n_compiler/nano/checkpoint PLANTED... [--documents 60] [--examples 25]

Each folder is a checkpoint with nano's tokenizer that computes the same function as the first, such as one in which
outliers were planted, or one that ``g3n-calibrate`` made of such. Each is measured by the recipe's reference, against
the first in float32, as it is and with its weights rewritten, on nano's held-out documents and on some of its held-out
tasks (an answer is right if each of its tokens is the most likely one after those before it); the table is that of
``docs/quality.md``. ``auto`` is chosen within :data:`MORE` of the size of int4. What has been measured is kept, so that
the command can be interrupted and run again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import click
import torch
from lab import Figures, figures, predictions
from rich.console import Console
from tokenizers import Tokenizer
from torch import Tensor

from g3n_compiler.checkpoint.calibrated import read_calibration
from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.cli.common import reports_errors
from g3n_compiler.models.embedding_tables import embedding_weights
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.models.registry import text_weights
from g3n_compiler.nano import heldout_path
from g3n_compiler.nano.tasks import Example, first_of_each, read_examples
from g3n_compiler.quantize.recipe import AUTO, Recipe, get_recipe
from g3n_compiler.source import TEXT, Source
from g3n_compiler.verify.held import own_held_texts
from g3n_compiler.verify.reference import Reference
from g3n_compiler.widths.bounds import Bounds
from g3n_compiler.widths.choose import Choices
from g3n_compiler.widths.effects import measure_effects
from nano_training.evaluate_tasks import score

FORMS = (("int8", False), ("int8", True), ("int4", False), ("int4", True), (AUTO, True))
"""Recipes, each without and with rewritten weights."""
MORE = 1.02
"""Bytes of the text model in ``auto``, relative to int4."""


def documents_of(source: Source, count: int) -> list[list[int]]:
    """Token ids of the first held-out documents, bos first."""
    tokenizer = load_tokenizer(source.directory, gemma3n_config(source.text))
    lines = heldout_path().read_text(encoding="utf-8").splitlines()[:count]
    return [[tokenizer.bos_id, *tokenizer.encode(json.loads(line)["text"])] for line in lines]


class _Scored:
    """A reference as :func:`~nano_training.evaluate_tasks.score` calls a model of ``transformers``."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference

    def __call__(self, input_ids: Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.stack([self._reference.logits(ids) for ids in input_ids.tolist()]))


def right_answers(reference: Reference, source: Source, examples: Sequence[Example]) -> float:
    """The mean over the tasks of the share of right answers."""
    tokenizer = Tokenizer.from_file(str(source.directory / "tokenizer.json"))
    by_task = score(_Scored(reference), tokenizer, examples).accuracy(examples)
    return sum(by_task.values()) / len(by_task)


def recipe_of(name: str, source: Source) -> Recipe:
    """The recipe of this name; ``auto`` is chosen for ``source``, on the texts that a compile measures on."""
    if name != AUTO:
        return get_recipe(name)
    most = round(MORE * nbytes(get_recipe("int4"), source))
    held = own_held_texts(source, load_tokenizer(source.directory, gemma3n_config(source.text)))
    effects = measure_effects(source, held.ids, lambda line: None)
    return Choices(source.text, effects, lambda recipe: nbytes(recipe, source)).choose(Bounds(most), lambda recipe: 0.0)


def nbytes(recipe: Recipe, source: Source) -> int:
    """Bytes of the text model's weights and tables."""
    return recipe.stored_bytes([*text_weights(source.text).values(), *embedding_weights(source.text).values()])


def forms_of(source: Source) -> list[tuple[str, bool]]:
    """What a checkpoint is measured in; a calibrated one only as it was calibrated."""
    record = read_calibration(source.directory)
    return [*FORMS] if record is None else [(record.recipe, False)]


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--documents", default=60, show_default=True, help="Held-out documents, the first so many.")
@click.option("--examples", default=25, show_default=True, help="Held-out examples of each task, the first so many.")
@click.option("--kept", type=click.Path(path_type=Path), default=Path("rounding.json"), show_default=True)
@reports_errors
def main(folders: tuple[Path, ...], documents: int, examples: int, kept: Path) -> None:
    """Print the table for checkpoints in FOLDERS, of which the first is taken in float32 for the truth."""
    found: dict[str, Figures] = json.loads(kept.read_text("utf-8")) if kept.is_file() else {}
    sources = [Source.open(folder, modalities=(TEXT,)) for folder in folders]
    texts = documents_of(sources[0], documents)
    tasks = [example for example in first_of_each(read_examples(), examples) if not example.media]
    truth = sources[0].checkpoint.sha256()
    exact = predictions(Reference(sources[0]).logits, texts)
    full = figures(exact, exact, texts)["perplexity"]
    console = Console(width=160)
    right = right_answers(Reference(sources[0]), sources[0], tasks)
    console.print(
        f"{len(texts)} documents, {sum(map(len, texts)) - len(texts)} tokens; float32: {full:.3f}, {right:.1%} of "
        f"{len(tasks)} answers\n"
    )
    heads = ("checkpoint", "recipe", "MB", "perplexity", "lost", "divergence", "same first choice", "right answers")
    console.print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for folder, source in zip(folders, sources, strict=True):
        for recipe, rewritten in forms_of(source):
            inputs = [truth, source.checkpoint.sha256(), recipe, rewritten, texts, len(tasks)]
            key = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
            if key not in found:
                given = source.rewritten() if rewritten else source
                chosen = recipe_of(recipe, given)
                reference = Reference(given, chosen)
                found[key] = figures(exact, predictions(reference.logits, texts), texts)
                found[key] |= {"bytes": nbytes(chosen, given), "right": right_answers(reference, source, tasks)}
                kept.write_text(json.dumps(found), encoding="utf-8")
            own, how = found[key], ", rewritten" if rewritten else ""
            how += ", calibrated" if read_calibration(folder) is not None else ""
            lost = 100 * (own["perplexity"] / full - 1)
            console.print(
                f"| {folder.name} | {recipe}{how} | {own['bytes'] / 1e6:.2f} | {own['perplexity']:.3f} | {lost:+.2f}% "
                f"| {own['divergence']:.4f} | {own['same']:.1%} | {own['right']:.1%} |"
            )


if __name__ == "__main__":
    main()
