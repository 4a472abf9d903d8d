"""Which task shows that one mechanism of Gemma 3n is broken: nano in ``transformers``, broken on purpose.

    python benchmarks/mechanisms.py [--examples 200]

Each mechanism is broken alone, in float32. The table gives the accuracy of each task (held-out examples, exact match,
greedy decoding: an answer is right if each of its tokens is the most likely one after those before it), and the
log-likelihood of the answers per token against the whole model's, with its standard error over the examples.

A mechanism is shown by a task that loses more than 5 points and three standard errors, otherwise by the log-likelihood
if that moves by more than three standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import click
import torch
from rich.console import Console
from tokenizers import Tokenizer

from g3n_compiler.cli.common import reports_errors
from g3n_compiler.models.gemma3n.transformers_model import load_hf
from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.nano.tasks import Example, first_of_each, read_examples
from g3n_compiler.source import TEXT, Source
from nano_training.broken import MECHANISMS
from nano_training.evaluate_tasks import Scores, score

_CLEAR = 3.0
"""Standard errors by which a figure must move to count."""
_POINTS = 0.05


def compare(examples: Sequence[Example], broken: Scores, whole: Scores) -> tuple[float, float, str]:
    """The change of log-likelihood per token, its standard error, and what shows the difference."""
    lost = []
    for task in dict.fromkeys(example.task for example in examples):
        own = [i for i, example in enumerate(examples) if example.task == task]
        mean, error = _mean([float(whole.right[i]) - float(broken.right[i]) for i in own])
        if mean > _POINTS and mean > _CLEAR * error:
            lost.append((mean, task))
    mean, error = _mean([b - w for b, w in zip(broken.likelihood, whole.likelihood, strict=True)])
    if lost:
        return mean, error, f"{max(lost)[1]} (-{100 * max(lost)[0]:.0f} points)"
    return mean, error, "log-likelihood" if abs(mean) > _CLEAR * error else "nothing"


def _mean(values: Sequence[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values)) / len(values)


@click.command()
@click.option("--examples", "count", default=200, show_default=True, help="Of each task.")
@click.option("--threads", default=2, show_default=True)
@click.argument("checkpoint", default=checkpoint_dir(), type=click.Path(path_type=Path))
@reports_errors
def main(count: int, threads: int, checkpoint: Path) -> None:
    """Print the table."""
    torch.set_num_threads(threads)
    source = Source.open(checkpoint, modalities=(TEXT,))
    tokenizer = Tokenizer.from_file(str(source.directory / "tokenizer.json"))
    examples = [e for e in first_of_each(read_examples(), count) if not e.media]
    tasks = list(dict.fromkeys(example.task for example in examples))
    console = Console(width=200, highlight=False)
    console.print(f"{count} held-out examples of each task; right answers in percent\n")
    console.print(f"| broken | {' | '.join(tasks)} | log-likelihood per token | shown by |")
    console.print("|---" * (len(tasks) + 3) + "|")
    whole: Scores | None = None
    for name, break_it in MECHANISMS.items():
        model = load_hf(source)
        with torch.no_grad():
            break_it(model)
        found = score(model, tokenizer, examples)
        whole = whole or found
        accuracy, (mean, error, shown) = found.accuracy(examples), compare(examples, found, whole)
        cells = " | ".join(f"{100 * accuracy[task]:.0f}" for task in tasks)
        moved = f"{mean:+.4f} ± {error:.4f} | {shown}" if found is not whole else " | "
        console.print(f"| {name} | {cells} | {moved} |", soft_wrap=True)


if __name__ == "__main__":
    main()
