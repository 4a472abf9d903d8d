"""Which task shows that one mechanism of Gemma 3n is broken: nano in ``transformers``, broken on purpose.

    python benchmarks/mechanisms.py [--examples 200] [--only "no soft cap"]

Each mechanism is broken alone, in float32. The table gives the accuracy of each task (held-out examples, exact match,
greedy decoding: an answer is right if each of its tokens is the most likely one after those before it), and two
figures of the log-likelihood of the answers in nats per token, against the whole model's: its mean change with the
standard error over the examples, and its mean absolute change.

A mechanism is shown by a task that loses more than 5 points and three standard errors; otherwise by the
log-likelihood, if its mean moves by more than three standard errors; otherwise by its absolute change, if that is more
than ten times what another order of float32 arithmetic (the same model with PyTorch's fused attention) changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click
import torch
from rich.console import Console
from tokenizers import Tokenizer

from g3n_compiler.cli.common import reports_errors
from g3n_compiler.models.gemma3n.transformers_model import load_hf
from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.nano.tasks import Example, first_of_each, read_examples
from g3n_compiler.source import TEXT, Source
from nano_training.broken import MECHANISMS, UNBROKEN
from nano_training.evaluate_tasks import Scores, score

_CLEAR = 3.0
"""Standard errors by which a mean must move to count."""
_POINTS = 0.05
_ABOVE_NOISE = 10.0


class Change(NamedTuple):
    """The log-likelihood of a broken model less the whole one's, in nats per token, and the task that lost most."""

    mean: float
    error: float
    absolute: float
    lost: tuple[float, str] | None

    def shown_by(self, noise: float) -> str:
        """What distinguishes the broken model from the whole one, whose absolute change is ``noise``."""
        if self.lost is not None:
            return f"{self.lost[1]} (-{100 * self.lost[0]:.0f} points)"
        if abs(self.mean) > _CLEAR * self.error:
            return "mean log-likelihood"
        return "log-likelihood of single answers" if self.absolute > _ABOVE_NOISE * noise else "nothing"


def compare(examples: Sequence[Example], broken: Scores, whole: Scores) -> Change:
    """What breaking changed, over all examples."""
    lost = []
    for task in dict.fromkeys(example.task for example in examples):
        own = [i for i, example in enumerate(examples) if example.task == task]
        mean, error = _mean([float(whole.right[i]) - float(broken.right[i]) for i in own])
        if mean > _POINTS and mean > _CLEAR * error:
            lost.append((mean, task))
    moved = [b - w for b, w in zip(broken.likelihood, whole.likelihood, strict=True)]
    return Change(*_mean(moved), _mean([abs(value) for value in moved])[0], max(lost, default=None))


def _mean(values: Sequence[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values)) / len(values)


@click.command()
@click.option("--examples", "count", default=200, show_default=True, help="Of each task.")
@click.option("--only", multiple=True, type=click.Choice(list(MECHANISMS)), help="These rows; all by default.")
@click.option("--threads", default=2, show_default=True)
@click.argument("checkpoint", default=checkpoint_dir(), type=click.Path(path_type=Path))
@reports_errors
def main(count: int, only: tuple[str, ...], threads: int, checkpoint: Path) -> None:
    """Print the table."""
    torch.set_num_threads(threads)
    source = Source.open(checkpoint, modalities=(TEXT,))
    tokenizer = Tokenizer.from_file(str(source.directory / "tokenizer.json"))
    examples = [e for e in first_of_each(read_examples(), count) if not e.media]
    tasks = list(dict.fromkeys(example.task for example in examples))
    console = Console(width=200, highlight=False)
    console.print(f"{count} held-out examples of each task; right answers in percent\n")
    console.print(f"| broken | {' | '.join(tasks)} | log-likelihood: mean | absolute | shown by |")
    console.print("|---" * (len(tasks) + 4) + "|")
    whole, noise = None, 0.0
    wanted = {name: break_it for name, break_it in MECHANISMS.items() if not only or name in only}
    for name, break_it in (UNBROKEN | wanted).items():
        model = load_hf(source)
        with torch.no_grad():
            break_it(model)
        found = score(model, tokenizer, examples)
        accuracy, whole = found.accuracy(examples), whole or found
        change = compare(examples, found, whole)
        noise = change.absolute if name in UNBROKEN else noise
        shown = "" if name in UNBROKEN else change.shown_by(noise)
        cells = " | ".join(f"{100 * accuracy[task]:.0f}" for task in tasks)
        figures = f"{change.mean:+.4f} ± {change.error:.4f} | {change.absolute:.1e}"
        console.print(f"| {name} | {cells} | {figures} | {shown} |", soft_wrap=True)


if __name__ == "__main__":
    main()
