"""Which tasks there are, and how often each is drawn in training."""

from random import Random

from g3n_compiler.nano.tasks import Example
from nano_training.tasks import answering, copying, tools
from nano_training.tasks.filler import Filler
from nano_training.tasks.words import Words

TASKS = {
    "copy": 3.0,
    "lookup": 2.0,
    "lookup-20": 1.5,
    "lookup-300": 1.0,
    "lookup-1500": 0.3,
    "reverse": 1.0,
    "sort": 1.0,
    "sum": 1.5,
    "json": 1.5,
    "system": 1.5,
    "recall": 1.5,
    "tool-call": 1.0,
    "tool-result": 0.7,
}
"""Text tasks and their weights in training; a look-up far back costs as many tokens as twenty other examples."""


def draw(task: str, words: Words, filler: Filler, rng: Random) -> Example:
    """An example of ``task``; in training the distances of look-ups vary around what is measured."""
    if task in copying.DISTANCES:
        distance = copying.DISTANCES[task]
        if words.split == "train":
            distance = round(distance * rng.uniform(0.3, 1.15))
        return copying.lookup(words, rng, filler, task, distance)
    makers = {
        "copy": copying.copy,
        "reverse": copying.reverse,
        "sort": copying.sort,
        "sum": answering.sums,
        "json": answering.as_json,
        "system": answering.instructed,
        "recall": copying.recall,
        "tool-call": tools.tool_call,
        "tool-result": tools.tool_result,
    }
    return makers[task](words, rng)
