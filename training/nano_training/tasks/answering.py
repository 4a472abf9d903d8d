"""Tasks whose answer has a form: sums, JSON, and what a system text asks for."""

import json
from random import Random

from g3n_compiler.nano.tasks import Example
from nano_training.tasks.words import CITIES, NAMES, Words, held_out

_SHOUTED = ("red", "blue", "green", "stone", "river", "king", "water", "bread", "house", "tree", "hand", "fire")
"""Words whose capitals nano learns to spell: they consist of other tokens."""

INSTRUCTIONS = (
    "Say everything twice.",
    "End every answer with thanks.",
    "Begin every answer with well.",
    "Answer in capitals.",
    "Leave out the first word.",
    "",
)


def sums(words: Words, rng: Random) -> Example:
    """Two numbers up to 50."""
    while True:
        a, b = rng.randint(0, 50), rng.randint(0, 50)
        if held_out("sum", a, b) == (words.split == "heldout"):
            return Example("sum", ((f"What is {a} + {b}?", f"It is {a + b}."),))


def as_json(words: Words, rng: Random) -> Example:
    """A sentence about a person as a JSON object; words in quotation marks come from the open vocabulary."""
    name, city = words.mine(rng, NAMES, CITIES)
    if rng.random() < 0.5:
        name, city = words.some(rng, 2)
        said_name, said_city = f'"{name}"', f'"{city}"'
    else:
        said_name, said_city = name, city
    age = words.number(rng)
    sentence, fields = rng.choice(
        (
            (
                f"a person named {said_name} is {age} and lives in {said_city}.",
                {"name": name, "age": age, "city": city},
            ),
            (f"in {said_city} lives {said_name}.", {"name": name, "city": city}),
            (f"the age of {said_name} is {age}.", {"name": name, "age": age}),
        )
    )
    return Example("json", ((f"Write as JSON: {sentence}", json.dumps(fields)),))


def instructed(words: Words, rng: Random) -> Example:
    """Words to say, in the way that the system text asks for."""
    system = rng.choice(INSTRUCTIONS)
    if "capitals" in system:
        found = rng.sample(_SHOUTED, rng.choice((1, 2)))
        while held_out(*found) != (words.split == "heldout"):
            found = rng.sample(_SHOUTED, rng.choice((1, 2)))
    else:
        found = words.some(rng, words.length(rng, 2, 4, kept=3))
    said = " ".join(found)
    answer = {
        "Say everything twice.": f"I say {said} {said}.",
        "End every answer with thanks.": f"I say {said}, thanks.",
        "Begin every answer with well.": f"Well, I say {said}.",
        "Answer in capitals.": f"I SAY {said.upper()}.",
        "Leave out the first word.": f"I say {' '.join(found[1:])}.",
        "": f"I say {said}.",
    }[system]
    return Example("system", ((f"Say {said}.", answer),), system)
