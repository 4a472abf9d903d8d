"""``python -m g3n_runtime BUNDLE [PROMPT]``: an answer, or a plain chat, where only the runtime is installed.

Without a prompt each line of the input is a turn, but for ``/drop [N]``, ``/reset``, ``/retry`` and ``/exit``.
``g3n-run``, which comes with the compiler, does more. ``G3N_VERBOSE=1`` shows what the engines print.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from g3n_runtime import told
from g3n_runtime.bundle import open_bundle
from g3n_runtime.chat import NOTHING, VIDEO_RATE, VIDEO_RATES, Attachments, ChatEngine, Sampler
from g3n_runtime.conversation import NUL, NUL_REFUSED
from g3n_runtime.engines import ENGINES, open_engine
from g3n_runtime.errors import ContextFull, EngineError, G3nError
from g3n_runtime.guard import go_on_in_child
from g3n_runtime.libraries import house_libraries
from g3n_runtime.quiet import is_verbose, silenced_stderr
from g3n_runtime.terminal import printable
from g3n_runtime.video_turn import Room, read_for

MOST_TOKENS = 1 << 20
"""Of an answer."""
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, see ``docs/exit-codes.md``."""
    options = _parser().parse_intermixed_args(arguments)
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):  # a character that is none, or that the terminal lacks, ends nothing
            stream.reconfigure(errors="replace" if stream is sys.stdin else "backslashreplace")
    house_libraries()
    try:
        with nullcontext(sys.stderr) if is_verbose() else silenced_stderr() as messages:
            _run(options, messages)
    except G3nError as error:
        _show_error(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the answer has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno is None:
            raise
        _show_error(f"{error.filename or 'a temporary file'} cannot be read or written ({error.strerror})")
        return 1
    return 0


def _show_error(message: str) -> None:
    sys.stderr.write(f"error: {printable(message)}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m g3n_runtime", description="Answer PROMPT from BUNDLE, or chat.")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder that g3n-compile wrote")
    parser.add_argument("prompt", type=_text, metavar="PROMPT", nargs="?", help="without one, each line is a turn")
    parser.add_argument("--runtime", choices=list(ENGINES), help="engine [default: the bundle's first]")
    parser.add_argument("--lora", type=Path, help="adapter's file of g3n-lora, for a bundle that takes adapters")
    parser.add_argument("--image", type=Path, action="append", default=[], help="picture for the first turn")
    parser.add_argument("--audio", type=Path, action="append", default=[], help="sound for the first turn")
    parser.add_argument("--video", type=Path, help="video for the first turn: its pictures and its sound")
    rate, tokens, heat = _within(float, *VIDEO_RATES), _within(int, 1, MOST_TOKENS), _within(float, 0, 1000)
    parser.add_argument("--video-fps", type=rate, default=VIDEO_RATE, help="pictures a second of it [default: 1]")
    parser.add_argument("--max-tokens", type=tokens, default=256, help="of an answer [default: 256]")
    parser.add_argument("--temperature", type=heat, help="0 is greedy [default: the bundle's]")
    return parser


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{printable(text)} is not text in the system's encoding") from None
    return text


def _within(kind: type[int] | type[float], least: float, most: float) -> Callable[[str], float]:
    """A number between two, both included."""

    def number(text: str) -> float:
        value = kind(text)
        if not (math.isfinite(value) and least <= value <= most):
            raise argparse.ArgumentTypeError(f"{printable(text)} is not in {least:g} to {most:g}")
        return value

    number.__name__ = kind.__name__  # what argparse calls a value that is none
    return number


def _run(options: argparse.Namespace, messages: TextIO) -> None:
    bundle = open_bundle(options.bundle)
    runtime = options.runtime or bundle.runtimes[0]
    default = bundle.manifest["sampler"]
    temperature = default["temperature"] if options.temperature is None else options.temperature
    sampler = Sampler(temperature, default["top_k"], default["top_p"])
    try:
        engine = open_engine(bundle, runtime, adapter=options.lora)
    except ModuleNotFoundError as error:
        raise EngineError(
            f"{error.name} is not installed, which the {runtime} engine needs: pip install './runtime_shims[{runtime}]'"
        ) from None
    attachments = Attachments(tuple(options.image), tuple(options.audio))
    if options.video is not None:
        others = len(options.image), len(options.audio)
        room = Room.of(bundle, None, [options.prompt or ""], *others)
        video, notes = read_for(room, options.video, options.video_fps)
        messages.writelines(f"({printable(note)})\n" for note in notes)
        attachments = replace(attachments, video=video)
    try:
        if options.prompt is None:
            _chat(engine, sampler, options.max_tokens, attachments, messages)
        else:
            _answer(engine, options.prompt, sampler, options.max_tokens, attachments, messages)
    finally:
        engine.close()


def _chat(engine: ChatEngine, sampler: Sampler, most: int, attachments: Attachments, messages: TextIO) -> None:
    """Each line of the input is a turn; what does not fit is told, and nothing that was said is lost by that."""
    refused: tuple[str, ContextFull] | None = None
    for line in sys.stdin:
        text = line.rstrip("\r\n")
        command, _, argument = text.partition(" ")
        if text == "/exit":
            return
        if text == "/reset":
            engine.reset()
            continue
        if command == "/drop":
            messages.write(told.drop(engine.conversation, argument.strip(), refused and refused[1]) + "\n")
            continue
        if text == "/retry":
            if refused is None:
                messages.write("(nothing was refused)\n")
                continue
            text = refused[0]
        if not text.strip():
            continue
        if NUL in text:
            messages.write(f"({NUL_REFUSED})\n")
            continue
        try:
            _answer(engine, text, sampler, most, attachments, messages)
        except ContextFull as error:
            refused = text, error
            messages.write(printable(told.refused(error)) + "\n")
        else:
            refused, attachments = None, NOTHING


def _answer(
    engine: ChatEngine, text: str, sampler: Sampler, most: int, attachments: Attachments, messages: TextIO
) -> None:
    answer = engine.send(text, sampler, most, attachments)
    for piece in answer:
        sys.stdout.write(printable(piece) if sys.stdout.isatty() else piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()
    if (note := told.cut(answer.ended, most)) is not None:
        messages.write(f"{note}\n")


if __name__ == "__main__":
    go_on_in_child(_show_error)
    sys.exit(main())
