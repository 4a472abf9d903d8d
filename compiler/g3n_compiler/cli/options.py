"""What the verbs take on their command lines: kinds of values, each with its bounds. Anything else is a usage error."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from g3n_runtime.chat import DEVICES, Device, Placement
from g3n_runtime.machine import MOST_THREADS
from g3n_runtime.terminal import printable

MOST_TOKENS = 1 << 20
"""Of a context, a prompt or an answer: 32 times what Gemma 3n was trained for."""
MOST_LAYERS = 1 << 10
MOST_WIDTH = 1 << 20
"""Of an FFN; E4B's have 16,384."""
MOST_SIDE = 1 << 12
"""Pixels of an image's side."""
MOST_SEED = (1 << 31) - 1
MOST_ITEMS = 1 << 10
"""In a list."""

TOKENS = click.IntRange(1, MOST_TOKENS)
THREADS = click.IntRange(1, MOST_THREADS)
SEED = click.IntRange(0, MOST_SEED)


HELP_WIDTH = 100
"""Characters of a line of help, where the terminal is as wide."""


class Verb(click.Command):
    """A command with ``-h``, ``--version``, examples and groups of options in its help.

    Its usage errors show what was typed as data: it may be a file's name that a shell put there.

    Args:
        examples: command lines, each with a few words on what it does.
        groups: names of parameters by the heading that they are shown under; the rest are under "Options".
        remark: a sentence for the end of the help.
    """

    def __init__(
        self,
        name: str | None,
        *,
        examples: Sequence[tuple[str, str]] = (),
        groups: Mapping[str, Sequence[str]] | None = None,
        remark: str = "",
        **settings: Any,
    ) -> None:
        context = {"help_option_names": ["-h", "--help"], "max_content_width": HELP_WIDTH}
        super().__init__(name, context_settings=context, **settings)
        click.version_option(package_name="g3n", message="%(prog)s %(version)s")(self)
        self._examples, self._groups, self._remark = examples, groups or {}, remark
        grouped = [name for names in self._groups.values() for name in names]
        if strange := set(grouped) - {parameter.name for parameter in self.params}:
            raise ValueError(f"no such parameter: {', '.join(sorted(strange))}")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise click.UsageError(printable(error.format_message()), ctx) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click's, by group."""
        heading_of = {name: heading for heading, names in self._groups.items() for name in names}
        sections: dict[str, list[tuple[str, str]]] = {heading: [] for heading in (*self._groups, "Options")}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(ctx)) is not None:
                sections[heading_of.get(str(parameter.name), "Options")].append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, each on lines of its own however wide the terminal is, and where the exit codes are."""
        with formatter.section("Examples"):
            for command, what in self._examples:
                formatter.write(f"{'':{formatter.current_indent}}{command}\n")
                formatter.write(f"{'':{formatter.current_indent}}    {what}\n")
        formatter.write_paragraph()
        if self._remark:
            formatter.write_text(self._remark)
        formatter.write("Exit codes: docs/exit-codes.md.\n")


QUIET = click.option("-q", "--quiet", is_flag=True, help="Print only results and errors.")
VERBOSE = click.option("-v", "--verbose", is_flag=True, help="Also print what toolchains and engines say.")
"""For the verbs that work long."""
BACKEND = click.option(
    "--backend", type=click.Choice(DEVICES), default="cpu", show_default=True, help="What runs the text model."
)
VISION_BACKEND = click.option("--vision-backend", type=click.Choice(DEVICES), help="[default: as --backend]")

CONTEXT = click.option(
    "--context", type=TOKENS, help="Tokens to make room for; fewer take less memory [default: the bundle's]."
)


def placement(backend: Device, vision_backend: Device | None) -> Placement:
    """What :data:`BACKEND` and :data:`VISION_BACKEND` ask for."""
    return Placement(backend, backend if vision_backend is None else vision_backend)


class Finite(click.FloatRange):
    """A number in a range, neither ``inf`` nor ``nan``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


class Words(click.ParamType[str]):
    """Text that is not empty."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:
            self.fail(f"{value!r} is not text in the system's encoding", param, ctx)
        if not value or "\0" in value:
            self.fail("is empty" if not value else f"{value!r} is not text", param, ctx)
        return str(value)


class Percentage(click.ParamType[float]):
    """``3%`` or ``0.5%``, as a part of 1."""

    name = "percentage"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"([0-9]{1,4}(?:\.[0-9]{1,6})?) ?%", str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a percentage such as 3%", param, ctx)
        return float(match[1]) / 100


class FileName(click.Path):
    """A file or folder, as a :class:`~pathlib.Path`; whether it is there is the verb's own question."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            named = bool(str(value).encode("utf-8", "surrogateescape")) and "\0" not in str(value)
        except UnicodeEncodeError:
            named = False
        if not named:
            self.fail(f"{str(value)!r} is not the name of a file", param, ctx)
        return super().convert(value, param, ctx)


class CheckpointName(FileName):
    """A folder, or ``owner/name[@revision]`` on the hub, as it was typed; the verb decides which of them it is."""

    name = "folder or owner/name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        super().convert(value, param, ctx)
        return str(value)


class IntegerList(click.ParamType[tuple[int, ...]]):
    """``128,256`` as a tuple of integers.

    Args:
        least, most: what each may be.
    """

    name = "n,n,..."

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of integers such as 128,256", param, ctx)
        if len(numbers) > MOST_ITEMS:
            self.fail(f"a list of {len(numbers)} integers is too long, at most {MOST_ITEMS} are taken", param, ctx)
        for number in numbers:
            if not self._least <= number <= self._most:
                self.fail(f"{number} is not in the range {self._least} to {self._most}", param, ctx)
        return numbers


class NameList(click.ParamType[tuple[str, ...]]):
    """``text,vision`` as a tuple of names."""

    name = "name,name,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(part.strip() for part in value.split(","))
        if len(names) > MOST_ITEMS or not all(names):
            self.fail(f"{value[:80]!r} is not a list of names such as a,b", param, ctx)
        return tuple(Words().convert(name, param, ctx) for name in names)
