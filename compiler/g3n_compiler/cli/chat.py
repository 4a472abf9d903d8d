"""The chat of ``g3n-run``: lines and commands from stdin, answers on stdout, all else on stderr.

It never waits for anything but the next line, so that it can be fed from a file.
"""

from __future__ import annotations

from collections.abc import Callable

import click

from g3n_compiler.cli.show import messages, show, write_answer
from g3n_runtime import told
from g3n_runtime.chat import NOTHING, Attachments, ChatEngine, Sampler
from g3n_runtime.conversation import NUL, NUL_REFUSED, Answer, Ended
from g3n_runtime.errors import ContextFull, EngineError, WrongAnswer
from g3n_runtime.terminal import printable_line

HELP = "/drop [N] forgets the oldest turns, /reset all of them, /retry asks again what did not fit, /exit leaves"
SIZE_HELP = "/size NAME switches to another size, "


def say(answer: Answer) -> str:
    """Write an answer to stdout as it comes; returns the whole of it."""
    said = []
    for piece in answer:
        write_answer(piece)
        said.append(piece)
    return "".join(said)


def require_answer(said: str, expected: str) -> None:
    """Show the expected answer beside the one that was given.

    Raises:
        WrongAnswer: they differ in more than white space around them.
    """
    if said.strip() != expected.strip():
        raise WrongAnswer(
            f"the answer is {printable_line(said.strip())!r}, expected {printable_line(expected.strip())!r}: "
            "the bundle, the engine or the sampling differs (--temperature 0 always takes the likeliest token)"
        )
    _tell(f"(as expected: {expected.strip()})")


def tell_if_cut(ended: Ended | None, max_tokens: int, advice: str = "") -> None:
    """Say on stderr that the model would have said more, and why it could not."""
    if (note := told.cut(ended, max_tokens, advice)) is not None:
        _tell(note)


class Chat:
    """A conversation with ``engine``, to whose first turn ``attachments`` belong."""

    def __init__(self, engine: ChatEngine, sampler: Sampler, max_tokens: int, attachments: Attachments) -> None:
        self._engine, self._sampler, self._max_tokens, self._attachments = engine, sampler, max_tokens, attachments
        self._change: Callable[[str], None] | None = getattr(engine, "use", None)
        self._usage = HELP if self._change is None else SIZE_HELP + HELP
        self._refused: tuple[str, ContextFull] | None = None

    def run(self) -> None:
        """Until ``/exit``, the end of stdin, or Ctrl-C at the prompt."""
        _tell(self._usage)
        while True:
            try:
                messages().write("you> ")
                messages().flush()
                line = click.prompt("", "", prompt_suffix="", show_default=False, err=True)
            except click.Abort:
                return
            if not line:
                continue
            if line == "/exit":
                return
            self._take(line)

    def _take(self, line: str) -> None:
        command, _, argument = line.partition(" ")
        if command == "/reset" and not argument:
            self._engine.reset()
            self._attachments = NOTHING
        elif command == "/drop":
            self._drop(argument.strip())
        elif command == "/retry" and not argument:
            self._retry()
        elif self._change is not None and command == "/size" and argument:
            self._resize(self._change, argument.strip())
        elif line.startswith("/"):
            _tell(self._usage)
        elif NUL in line:
            _tell(f"({NUL_REFUSED})")
        else:
            self._ask(line)

    def _ask(self, text: str) -> None:
        conversation = self._engine.conversation
        try:
            answer = self._engine.send(text, self._sampler, self._max_tokens, self._attachments)
        except ContextFull as error:
            self._refused = text, error
            _tell(told.refused(error))
            return
        self._refused, self._attachments = None, NOTHING
        before = conversation.turns
        try:
            say(answer)
        except KeyboardInterrupt:
            answer.close()
            click.echo()
            kept = "what was said is kept" if conversation.turns != before else "the turn is forgotten"
            _tell(f"(interrupted: {kept}; Ctrl-C again leaves)")
            return
        click.echo()
        tell_if_cut(answer.ended, self._max_tokens, "; /drop or /reset makes room")

    def _drop(self, asked: str) -> None:
        _tell(told.drop(self._engine.conversation, asked, self._refused and self._refused[1]))

    def _retry(self) -> None:
        if self._refused is None:
            _tell("(nothing was refused)")
        else:
            self._ask(self._refused[0])

    def _resize(self, change: Callable[[str], None], size: str) -> None:
        """A name that the bundle lacks is no reason to end the chat."""
        try:
            change(size)
        except EngineError as error:
            _tell(str(error))


def _tell(line: str) -> None:
    show(line, err=True)
