"""What each training step holds: short tasks, long ones, pictures and sounds, or the old text."""

from dataclasses import dataclass
from random import Random

from tokenizers import Tokenizer

from nano_training.tasks.encoding import Encoded, RowFiller, Rows, encode, stack
from nano_training.tasks.filler import Filler
from nano_training.tasks.media import MEDIA_TASKS, Galleries, ask, says
from nano_training.tasks.mixture import TASKS, draw
from nano_training.tasks.words import Words

TOKENS = 2048
SLOTS = 512
"""Tokens of a step, and how many of them are predictions that are learnt."""


@dataclass(frozen=True)
class Kind:
    """A step of ``rows``, each of which begins with one of ``mains`` (or with anything that fits)."""

    rows: int
    weight: float
    mains: tuple[str, ...] = ()


_KINDS = (
    Kind(8, 0.28),
    Kind(
        4,
        0.34,
        ("lookup-300", "digit", "scene", "scene", "speech", "speech", "tool-call", "tool-result"),
    ),
    Kind(2, 0.12, ("two-pictures", "two-pictures", "lookup-1500")),
    Kind(1, 0.09, ("lookup-1500",)),
    Kind(0, 0.17),
)
"""The last one is the old text, as in its own training."""

_TRIES = 3
_LONG = ("lookup-300", "lookup-1500")


class Curriculum:
    """Draws lessons from a seeded generator."""

    def __init__(self, tokenizer: Tokenizer, filler: Filler, galleries: Galleries) -> None:
        self.galleries, self._shown = galleries, says(galleries)
        self._tokenizer, self._filler, self._words = tokenizer, filler, Words("train")

    def lesson(self, rng: Random, fraction: float) -> Rows | None:
        """Rows of examples, or ``None`` for a step over the old text. Long look-ups begin after a fifth of the time."""
        kind = rng.choices(_KINDS, [k.weight for k in _KINDS])[0]
        if not kind.rows:
            return None
        if fraction < 0.2 and kind.mains == ("lookup-1500",):
            kind = _KINDS[0]
        length, slots = TOKENS // kind.rows, SLOTS // kind.rows
        return stack([self._row(kind, rng, length, slots) for _ in range(kind.rows)], length, slots)

    def _row(self, kind: Kind, rng: Random, length: int, slots: int) -> list[Encoded]:
        row = RowFiller(length, slots)
        if kind.mains:
            row.add(self._example(rng.choice(kind.mains), rng))
        short = [task for task in TASKS if task not in _LONG]
        missed = 0
        while missed < _TRIES:
            task = rng.choices(short, [TASKS[t] for t in short])[0]
            missed += not row.add(self._example(task, rng))
        return row.examples

    def _example(self, task: str, rng: Random) -> Encoded:
        made = ask(task, self._shown, rng) if task in MEDIA_TASKS else draw(task, self._words, self._filler, rng)
        return encode(made, self._tokenizer, rng)
