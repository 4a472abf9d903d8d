"""``python -m g3n_runtime BUNDLE [PROMPT]``: an answer, or a plain chat, where only the runtime is installed.

``g3n-run``, which comes with the compiler, does more. ``G3N_VERBOSE=1`` shows what the engines print.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from g3n_runtime.bundle import open_bundle
from g3n_runtime.chat import VIDEO_RATE, VIDEO_RATES, Attachments, ChatEngine, Sampler
from g3n_runtime.engines import ENGINES, open_engine
from g3n_runtime.errors import EngineError, G3nError
from g3n_runtime.quiet import is_verbose, silenced_stderr
from g3n_runtime.terminal import printable
from g3n_runtime.video_turn import Room, read_for


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, see ``docs/exit-codes.md``."""
    options = _parser().parse_intermixed_args(arguments)
    try:
        with nullcontext(sys.stderr) if is_verbose() else silenced_stderr() as messages:
            _run(options, messages)
    except G3nError as error:
        sys.stderr.write(f"error: {printable(str(error))}\n")
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m g3n_runtime", description="Answer PROMPT from BUNDLE, or chat.")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder that g3n-compile wrote")
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="without one, each line of the input is a turn")
    parser.add_argument("--runtime", choices=list(ENGINES), help="engine [default: the bundle's first]")
    parser.add_argument("--image", type=Path, action="append", default=[], help="picture for the first turn")
    parser.add_argument("--audio", type=Path, action="append", default=[], help="sound for the first turn")
    parser.add_argument("--video", type=Path, help="video for the first turn: its pictures and its sound")
    parser.add_argument("--video-fps", type=_rate, default=VIDEO_RATE, help="pictures a second of it [default: 1]")
    parser.add_argument("--max-tokens", type=int, default=256, help="of an answer [default: 256]")
    parser.add_argument("--temperature", type=float, help="0 is greedy [default: the bundle's]")
    return parser


def _rate(text: str) -> float:
    rate, (least, most) = float(text), VIDEO_RATES
    if not least <= rate <= most:
        raise argparse.ArgumentTypeError(f"{text} is not in {least:g} to {most:g}")
    return rate


def _run(options: argparse.Namespace, messages: TextIO) -> None:
    bundle = open_bundle(options.bundle)
    runtime = options.runtime or bundle.runtimes[0]
    default = bundle.manifest["sampler"]
    temperature = default["temperature"] if options.temperature is None else options.temperature
    sampler = Sampler(temperature, default["top_k"], default["top_p"])
    try:
        engine = open_engine(bundle, runtime)
    except ModuleNotFoundError as error:
        raise EngineError(
            f"{error.name} is not installed, which the {runtime} engine needs: pip install './runtime_shims[{runtime}]'"
        ) from None
    attachments = Attachments(tuple(options.image), tuple(options.audio))
    if options.video is not None:
        others = len(options.image), len(options.audio)
        room = Room.of(bundle, runtime, None, [options.prompt or ""], *others)
        video, notes = read_for(room, options.video, runtime, options.video_fps)
        messages.writelines(f"({printable(note)})\n" for note in notes)
        attachments = replace(attachments, video=video)
    lines = sys.stdin if options.prompt is None else [options.prompt]
    try:
        for line in lines:
            _answer(engine, line.rstrip("\n"), sampler, options.max_tokens, attachments)
            attachments = Attachments()
    finally:
        engine.close()


def _answer(engine: ChatEngine, text: str, sampler: Sampler, most: int, attachments: Attachments) -> None:
    for piece in engine.send(text, sampler, most, attachments):
        sys.stdout.write(printable(piece) if sys.stdout.isatty() else piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


if __name__ == "__main__":
    sys.exit(main())
