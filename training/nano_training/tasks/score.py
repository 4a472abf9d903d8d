"""Held-out scores during training."""

from random import Random

from tokenizers import Tokenizer

from nano_training.tasks.encoding import encode, stack
from nano_training.tasks.filler import Filler
from nano_training.tasks.learner import Learner
from nano_training.tasks.media import MEDIA_TASKS, Galleries, ask, says
from nano_training.tasks.mixture import TASKS, draw
from nano_training.tasks.words import Words


def score(learner: Learner, tokenizer: Tokenizer, filler: Filler, galleries: Galleries, count: int) -> dict[str, float]:
    """Share of right answers on ``count`` examples of each task.

    Those of text are held out; those about pictures and sounds use the pictures and sounds of training.
    """
    words, shown, found = Words("heldout"), says(galleries), {}
    for task in (*TASKS, *MEDIA_TASKS):
        hits = 0.0
        for number in range(count):
            rng = Random(f"heldout/{task}/{number}")
            example = ask(task, shown, rng) if task in MEDIA_TASKS else draw(task, words, filler, rng)
            encoded = encode(example, tokenizer)
            hits += learner.right(stack([[encoded]], len(encoded.tokens), encoded.answers))[task]
        found[task] = round(hits / count, 3)
    return found
