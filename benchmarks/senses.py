"""What nano sees and hears, held out: ``transformers`` float32 against bundles in their stock engines.

    python benchmarks/senses.py exported/nano-host-int8 exported/nano-host-int4 [--digits 300]

Asks the same questions of every engine, greedily, and prints the table that the README shows: accuracy of digits and of
scenes (the whole sentence), and word error rate. Pictures are handed over as PNG files and sounds as WAV files, as a
user would. A bundle without towers, or of another checkpoint than the embedded one, is refused.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import soundfile
import torch
from rich.console import Console

from g3n_compiler.checkpoint.reader import Checkpoint
from g3n_compiler.cli.common import quiet_toolchains, reports_errors
from g3n_compiler.errors import BundleError
from g3n_compiler.nano import checkpoint_dir, heldout_senses
from g3n_compiler.nano.evaluate_senses import Engine, Reference, Result, accuracy, measure, word_error_rate
from g3n_compiler.nano.heldout_senses import Question
from g3n_compiler.nano.voices import RATE
from g3n_runtime.bundle import Bundle, open_bundle
from g3n_runtime.engine import GREEDY, Attachments, ChatEngine, open_engine

MOST_TOKENS = 24
"""Of an answer, as in the reference."""


class Bundled:
    """A bundle's engine, asked one question at a time with files in ``folder``."""

    def __init__(self, engine: ChatEngine, folder: Path) -> None:
        self._engine, self._folder = engine, folder

    def __call__(self, question: Question) -> str:
        picture, sound = self._folder / "picture.png", self._folder / "sound.wav"
        if question.image is not None:
            question.image.save(picture)
            attached = Attachments(images=(picture,))
        else:
            soundfile.write(sound, question.sound, RATE, subtype="FLOAT")
            attached = Attachments(audio=(sound,))
        said = "".join(self._engine.send(question.text, GREEDY, MOST_TOKENS, attached))
        self._engine.reset()
        return said


def figures(results: Sequence[Result]) -> str:
    """Three cells of the table."""
    shares = [f"{accuracy(results, kind):.1%}" for kind in ("digit", "scene")]
    return " | ".join([*shares, f"{word_error_rate(results):.1%}"])


def same_answers(results: Sequence[Result], reference: Sequence[Result]) -> str:
    """How many answers are the reference's, word for word."""
    same = sum(a.answer == b.answer for a, b in zip(results, reference, strict=True))
    return f"{same} of {len(results)}"


def check(bundle: Bundle) -> None:
    """Refuse what the questions cannot be asked of."""
    checkpoint = Checkpoint(checkpoint_dir())
    if bundle.manifest["provenance"]["checkpoint"] != checkpoint.sha256():
        raise BundleError(
            f"{bundle.directory} was not compiled from the embedded checkpoint: compile it with --size nano"
        )
    if missing := {"vision", "audio"} - set(bundle.manifest["model"]["modalities"]):
        raise BundleError(
            f"{bundle.directory} has no {' and no '.join(sorted(missing))}: compile it without --modalities"
        )


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--digits", default=heldout_senses.DIGITS, show_default=True, help="Only the first so many.")
@click.option("--scenes", default=heldout_senses.SCENES, show_default=True, help="Only the first so many.")
@click.option("--clips", default=heldout_senses.CLIPS, show_default=True, help="Only the first so many.")
@click.option("--threads", default=2, show_default=True, help="Of the reference.")
@reports_errors
def main(bundles: tuple[Path, ...], digits: int, scenes: int, clips: int, threads: int) -> None:
    """Print the table for BUNDLES of nano."""
    torch.set_num_threads(threads)
    opened = [open_bundle(bundle) for bundle in bundles]
    for bundle in opened:
        check(bundle)
    questions = heldout_senses.questions(digits, scenes, clips)
    console = Console(width=120)
    reference = measure(Reference(checkpoint_dir()), questions)
    console.print(f"{digits} digits, {scenes} scenes, {clips} sounds\n")
    console.print("| recipe | runtime | digits | scenes | word error rate | same answers |\n|---|---|---|---|---|---|")
    console.print(f"| fp32 | transformers, eager | {figures(reference)} | |")
    for bundle in opened:
        for runtime in bundle.runtimes:
            with quiet_toolchains(), tempfile.TemporaryDirectory() as folder:
                engine = open_engine(bundle, runtime)
                asked: Engine = Bundled(engine, Path(folder))
                results = measure(asked, questions)
                engine.close()
            recipe = bundle.manifest["recipe"]["name"]
            console.print(f"| {recipe} | {runtime} | {figures(results)} | {same_answers(results, reference)} |")


if __name__ == "__main__":
    main()
