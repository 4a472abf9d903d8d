"""The commands in README and ``docs/``, and what the pages say that they print."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "docs/apps")
PAGES = ("README.md", *(f"{folder}/{path.name}" for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.md"))))
FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ANYTHING = "..."


class Example(NamedTuple):
    """A command after a ``$``, and the lines under it."""

    command: str
    shown: tuple[str, ...]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def examples(page: str) -> list[Example]:
    """The commands of ``page`` that a test runs as they stand."""
    found: list[Example] = []
    for block in FENCE.findall(text_of(page)):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = part.rstrip("\n").split("\n")
            found.append(Example(command, tuple(shown)))
    return found


def mentioned(page: str) -> list[str]:
    """The commands of ``page`` that need a checkpoint, a key or a phone which are not here."""
    lines = [line for block in FENCE.findall(text_of(page)) for line in block.splitlines()]
    return [re.sub(r"\s+#.*", "", line) for line in lines if line.startswith("g3n-")]


def made_by(page: str) -> list[str]:
    """The ``make`` targets that ``page`` names in a block."""
    lines = [line for block in FENCE.findall(text_of(page)) for line in block.splitlines()]
    return [line.split()[1] for line in lines if line.startswith("make ")]


def says(shown: tuple[str, ...], printed: str) -> bool:
    """Whether ``printed`` has the lines of ``shown``; ``...`` stands for any number of lines."""
    lines = [line.rstrip() for line in printed.strip().splitlines()]
    pattern = "".join(r"(?:.*\n)*?" if line == ANYTHING else re.escape(line.rstrip()) + r"\n" for line in shown)
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in lines)) is not None
