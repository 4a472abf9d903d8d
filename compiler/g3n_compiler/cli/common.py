"""What the verbs share: errors as one line and an exit code, quiet toolchains, argv without a machine's paths."""

from __future__ import annotations

import functools
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from g3n_compiler.bundle.staging import translated_disk_errors
from g3n_compiler.cli.interrupt import INTERRUPTED
from g3n_compiler.cli.show import messages_to, show, show_error
from g3n_runtime.errors import G3nError
from g3n_runtime.libraries import house_libraries
from g3n_runtime.quiet import is_verbose, silenced_stderr
from g3n_runtime.terminal import printable_line

F = TypeVar("F", bound=Callable[..., Any])


def reports_errors(command: F) -> F:
    """Show a :class:`G3nError` as one message and exit with its code; Ctrl-C exits with 130. No tracebacks."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a character that the terminal lacks is no reason to end
                stream.reconfigure(errors="backslashreplace")
        if isinstance(sys.stdin, io.TextIOWrapper):  # nor are bytes that are no text
            sys.stdin.reconfigure(errors="replace")
        house_libraries()
        try:
            with translated_disk_errors(Path.cwd()):
                return command(*args, **kwargs)
        except G3nError as error:
            show_error(str(error))
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            show("interrupted", err=True)
            sys.exit(INTERRUPTED)

    return wrapper  # type: ignore[return-value]


@contextmanager
def quiet_toolchains(verbose: bool = False) -> Iterator[None]:
    """Keep the toolchains' own chatter off the terminal, from Python and from C++; our messages still get there.

    ``verbose``, or ``G3N_VERBOSE=1`` in the environment, lets it through.
    """
    if verbose or is_verbose():
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), silenced_stderr() as stream, messages_to(stream):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(previous)


def portable_command(argv: list[str]) -> str:
    """The command line with every path cut to its last part: it goes into the manifest, which names no machine."""
    parts = [Path(argv[0]).name]
    for word in argv[1:]:
        flag, equals, value = word.partition("=")
        parts.append(
            f"{flag}={Path(value).name}" if equals and "/" in value else Path(word).name if "/" in word else word
        )
    return printable_line(" ".join(parts))


def without_option(argv: list[str], flag: str) -> list[str]:
    """The command line without an option that takes a value, in either of its spellings."""
    kept, words = [], iter(argv)
    for word in words:
        if word == flag:
            next(words, None)
        elif not word.startswith(f"{flag}="):
            kept.append(word)
    return kept
