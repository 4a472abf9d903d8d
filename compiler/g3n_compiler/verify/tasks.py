"""Nano's tasks, asked of what was lowered: how many answers are right, by task."""

from __future__ import annotations

from g3n_compiler.lower.backend import Backend
from g3n_compiler.lower.job import Job
from g3n_compiler.nano.tasks import answer, first_of_each, length, read_examples
from g3n_compiler.verify.checks import TaskScore

EXAMPLES = 3
"""Of each task in a compile; ``benchmarks/tasks.py`` asks all of them."""


def task_scores(job: Job, backend: Backend) -> list[TaskScore]:
    """Answers of the text model to those tasks that need no picture or sound and that fit the context."""
    tokenizer = job.tokenizer.loaded()
    _, model = next(backend.open_models(job.files))
    right: dict[str, list[bool]] = {}
    for example in first_of_each(read_examples(), EXAMPLES):
        if example.media or length(example, tokenizer) >= job.context:
            continue
        said = answer(example, tokenizer, model.greedy)
        right.setdefault(example.task, []).append(said == example.expected)
    return [TaskScore(backend.runtime, task, sum(own), len(own)) for task, own in right.items()]
