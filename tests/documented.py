"""The commands in README and ``docs/``, and what the pages say that they print."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "docs/apps")
PAGES = ("README.md", *(f"{folder}/{path.name}" for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.md"))))
EVERY_PAGE = (
    *PAGES, "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "android_app/README.md",
    "compiler/g3n_compiler/nano/checkpoint/README.md", "training/runs/tasks-1/README.md",
)  # fmt: skip
PROGRAM = re.compile(r"(?:\$ )?((?:python|make|litert-lm|pip install|g3n-[a-z]+|benchmarks/\w+\.py)(?: .*)?)$")
"""A command that starts with a program whose options can be looked up."""
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


def named(page: str) -> list[str]:
    """Every command that ``page`` names, in its blocks, in indented lines or between its words."""
    text = text_of(page)
    prose = FENCE.sub("", text)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    lines = [line for block in FENCE.findall(text) for line in block.splitlines()]
    lines += [line.strip() for line in prose.splitlines() if line.startswith("    ")]
    found = (PROGRAM.match(re.sub(r"\s+#.*", "", part)) for part in (*spans, *lines))
    return [match[1] for match in found if match]


def says(shown: tuple[str, ...], printed: str) -> bool:
    """Whether ``printed`` has the lines of ``shown``; ``...`` stands for any number of lines."""
    lines = [line.rstrip() for line in printed.strip().splitlines()]
    pattern = "".join(r"(?:.*\n)*?" if line == ANYTHING else re.escape(line.rstrip()) + r"\n" for line in shown)
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in lines)) is not None
