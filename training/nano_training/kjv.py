"""Read the King James Version as the ``bible`` program prints it, and write plain and chat documents."""

import re
from dataclasses import dataclass
from random import Random

from nano_training.chat import Turn

_VERSE = re.compile(r"\s+(\d+) (.*)$")
_HEADING = re.compile(r"\S.* \d+$")


@dataclass(frozen=True)
class Chapter:
    """One chapter: its name, for example "Genesis 1", and its verses in order."""

    name: str
    verses: tuple[str, ...]


def parse(printed: str) -> list[Chapter]:
    """Chapters from the program's output: a heading line, then numbered verses; continuation lines have no number."""
    chapters: list[Chapter] = []
    name, verses = "", list[str]()
    for line in printed.splitlines():
        match = _VERSE.match(line)
        if match and int(match[1]) == len(verses) + 1:
            verses.append(match[2].strip())
        elif _HEADING.match(line) and len(line) < 40 and not line.startswith(" "):
            if verses:
                chapters.append(Chapter(name, tuple(verses)))
            name, verses = line.strip(), []
        elif line.strip() and verses:
            verses[-1] += " " + line.strip()
    return [*chapters, Chapter(name, tuple(verses))]


def passages(chapter: Chapter, rng: Random) -> list[str]:
    """Plain text: the chapter in passages of 6 to 12 verses, each under a heading such as "Genesis 1:1-8"."""
    result: list[str] = []
    at = 0
    while at < len(chapter.verses):
        size = rng.randint(6, 12)
        part = chapter.verses[at : at + size]
        result.append(f"{chapter.name}:{at + 1}-{at + len(part)}\n\n" + "\n".join(part) + "\n")
        at += size
    return result


def continuations(chapter: Chapter, rng: Random) -> list[list[Turn]]:
    """Conversations in which the user gives a verse and the model continues with the next; a third of the verses."""
    result: list[list[Turn]] = []
    for here, following in zip(chapter.verses, chapter.verses[1:], strict=False):
        if rng.random() > 1 / 3 or len(here) > 400:
            continue
        ask = [f"Continue: {here}", f'Continue: "{here}"', f"Continue this passage:\n\n{here}", f"Go on: {here}"]
        result.append([(rng.choice(ask), following)])
    return result
