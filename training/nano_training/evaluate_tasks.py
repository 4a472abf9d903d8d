"""How many held-out tasks a text model in ``transformers`` solves: ``python -m nano_training.evaluate_tasks [DIR]``."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.nano.tasks import Example, first_of_each, read_examples
from nano_training import evaluate
from nano_training.tasks.encoding import encode

_BATCH_TOKENS = 6000


@dataclass(frozen=True)
class Scores:
    """Of each example: whether its last answer is right, and its log-likelihood in nats per token."""

    right: list[bool]
    likelihood: list[float]

    def accuracy(self, examples: Sequence[Example]) -> dict[str, float]:
        """The share of right answers by task."""
        by_task: dict[str, list[bool]] = {}
        for example, right in zip(examples, self.right, strict=True):
            by_task.setdefault(example.task, []).append(right)
        return {task: sum(own) / len(own) for task, own in by_task.items()}


def score(model: Any, tokenizer: Tokenizer, examples: Sequence[Example]) -> Scores:
    """Teacher-forced over the last answer of each of ``examples``, which have no media."""
    rows = [encode(example, tokenizer) for example in examples]
    right, likelihood = [False] * len(rows), [0.0] * len(rows)
    for places in _batches([len(row.tokens) for row in rows]):
        ids = [torch.tensor(rows[i].tokens) for i in places]
        with torch.no_grad():
            logits: Tensor = model(input_ids=nn.utils.rnn.pad_sequence(ids, batch_first=True), use_cache=False).logits
        for own, tokens, i in zip(logits, ids, places, strict=True):
            begin, end = rows[i].spans[-1]
            found, wanted = own[begin - 1 : end - 1], tokens[begin:end]
            right[i] = bool((found.argmax(-1) == wanted).all())
            likelihood[i] = -float(F.cross_entropy(found, wanted))
    return Scores(right, likelihood)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of rows of similar length, with at most so many padded tokens in a batch."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) + 1) * lengths[i] > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    yield batch


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True), default=checkpoint_dir())
@click.option("--examples", "count", default=200, show_default=True, help="Of each task.")
@click.option("--threads", default=2, show_default=True)
def main(folder: Path, count: int, threads: int) -> None:
    """Print the accuracy of the checkpoint in FOLDER by task, as JSON; tasks with pictures and sounds are left out."""
    torch.set_num_threads(threads)
    examples = [e for e in first_of_each(read_examples(), count) if not e.media]
    scores = score(evaluate.load(folder), Tokenizer.from_file(str(folder / "tokenizer.json")), examples)
    click.echo(json.dumps(scores.accuracy(examples), indent=1))


if __name__ == "__main__":
    main()
