"""Tasks that copy: sentences with one word replaced, looking up, lists, what was said in an earlier turn."""

from collections.abc import Sequence
from random import Random

from g3n_compiler.nano.tasks import Example
from nano_training.tasks.filler import Filler
from nano_training.tasks.words import Words

_STARTS = ("The", "A", "My", "Our", "His", "Her", "This", "That")
_VERBS = ("saw", "took", "made", "found", "left", "kept", "gave", "knew", "held", "sent")
_LINKS = ("by the", "near a", "with the", "of the", "and the", "under a", "for the", "in a")

DISTANCES = {"lookup": 0, "lookup-20": 20, "lookup-300": 300, "lookup-1500": 1500}
"""Tokens of other text between the list and the question, by task."""


def sentence(content: Sequence[str], rng: Random) -> list[str]:
    """A sentence with the words ``content``, as a list of words."""
    found = [rng.choice(_STARTS)]
    for i, word in enumerate(content):
        if i == 1:
            found += [rng.choice(_VERBS), "the"]
        elif i > 1:
            found += rng.choice(_LINKS).split()
        found.append(word)
    return found


def copy(words: Words, rng: Random) -> Example:
    """A sentence, with one of its words replaced or unchanged."""
    new, *content = words.some(rng, 1 + words.length(rng, 2, 6, kept=5))
    found = sentence(content, rng)
    text = " ".join(found)
    if rng.random() < 0.25:
        return Example("copy", ((f"Repeat this:\n{text}.", f"{text}."),))
    old = rng.choice(content)
    changed = " ".join(new if word == old else word for word in found)
    return Example("copy", ((f"Repeat this with {new} instead of {old}:\n{text}.", f"{changed}."),))


def lookup(words: Words, rng: Random, filler: Filler, task: str, distance: int) -> Example:
    """Facts, ``distance`` tokens of other text, and a question about one of the facts."""
    count = words.length(rng, 2, 6 if distance else 9, kept=5)
    keys = words.some(rng, count)
    values = [str(words.number(rng)) for _ in keys] if rng.random() < 0.6 else words.some(rng, count)
    facts = ", ".join(f"the {key} is {value}" for key, value in zip(keys, values, strict=True))
    asked = rng.randrange(count)
    between = f"\n\n{filler.text(rng, distance)}" if distance else ""
    question = f"Remember: {facts}.{between}\n\nWhat is the {keys[asked]}?"
    return Example(task, ((question, f"The {keys[asked]} is {values[asked]}."),))


def reverse(words: Words, rng: Random) -> Example:
    """A list of words backwards."""
    found = words.some(rng, words.length(rng, 2, 6, kept=5))
    return Example("reverse", ((f"Reverse: {' '.join(found)}", f"Reversed: {' '.join(reversed(found))}"),))


def sort(words: Words, rng: Random) -> Example:
    """A list of digits in order."""
    found = [rng.randint(0, 9) for _ in range(words.length(rng, 3, 7, kept=6))]
    return Example("sort", ((f"Sort: {_join(found)}", f"Sorted: {_join(sorted(found))}"),))


def _join(numbers: list[int]) -> str:
    return " ".join(map(str, numbers))


def recall(words: Words, rng: Random) -> Example:
    """What was said one or two turns ago."""
    keys = words.some(rng, rng.choice((1, 2, 2)))
    values = [str(words.number(rng)) if rng.random() < 0.5 else words.some(rng, 1)[0] for _ in keys]
    turns = [(f"My {key} is {value}.", "Noted.") for key, value in zip(keys, values, strict=True)]
    if len(turns) == 1 or rng.random() < 0.3:
        word = words.some(rng, 1)[0]
        turns.append((f"Say {word}.", f"I say {word}."))
    asked = rng.randrange(len(keys))
    turns.append((f"What is my {keys[asked]}?", f"Your {keys[asked]} is {values[asked]}."))
    return Example("recall", tuple(turns))
