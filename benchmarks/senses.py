"""What nano sees and hears, held out: ``transformers`` float32 against bundles in their stock engines.

    python benchmarks/senses.py exported/nano-host-int8 exported/nano-host-int4 [--digits 300]

Asks the same questions of every engine, greedily, and prints the table that the README shows: accuracy of digits and of
scenes (the whole sentence), and word error rate; of a bundle also the difference and its standard error. Pictures are
handed over as PNG files and sounds as WAV files, as a user would. A bundle without towers, or of another checkpoint
than the embedded one (unless ``--planted`` says that it computes the same), is refused.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import soundfile
import torch
from lab import PLANTED, recipe_label, require_nano
from rich.console import Console

from g3n_compiler.cli.common import quiet_toolchains, reports_errors
from g3n_compiler.errors import BundleError
from g3n_compiler.nano import checkpoint_dir
from g3n_runtime.bundle import Bundle, open_bundle
from g3n_runtime.chat import GREEDY, Attachments, ChatEngine
from g3n_runtime.engines import open_engine
from nano_training import heldout_senses
from nano_training.evaluate_senses import Engine, Reference, Result, accuracy, measure, word_error_rate, word_errors
from nano_training.heldout_senses import Question
from nano_training.voices import RATE

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


def figures(results: Sequence[Result], reference: Sequence[Result]) -> str:
    """Three cells of the table: of an engine that is not the reference, with what it adds and its standard error."""
    kinds = ("digit", "scene", "speech")
    values = [accuracy(results, "digit"), accuracy(results, "scene"), word_error_rate(results)]
    if results is reference:
        return " | ".join(f"{value:.1%}" for value in values)
    added = [difference(results, reference, kind) for kind in kinds]
    return " | ".join(
        f"{value:.1%} ({mean:+.1f} ± {error:.1f})" for value, (mean, error) in zip(values, added, strict=True)
    )


def difference(results: Sequence[Result], reference: Sequence[Result], kind: str) -> tuple[float, float]:
    """Points of accuracy (of word errors for speech) more than the reference's, and the standard error.

    The same questions are asked of both, so what counts is where their answers differ.
    """
    pairs = [(a, b) for a, b in zip(results, reference, strict=True) if a.question.kind == kind]
    each = [_score(a) - _score(b) for a, b in pairs]
    total, squares = sum(each), sum(d * d for d in each)
    out_of = sum(len(a.question.answer.split()) for a, _ in pairs) if kind == "speech" else len(pairs)
    return 100 * total / out_of, 100 * math.sqrt(squares - total**2 / len(each)) / out_of


def _score(result: Result) -> int:
    wanted = result.question.answer
    return word_errors(result.answer, wanted) if result.question.kind == "speech" else int(result.answer == wanted)


def same_answers(results: Sequence[Result], reference: Sequence[Result]) -> str:
    """How many answers are the reference's, word for word."""
    same = sum(a.answer == b.answer for a, b in zip(results, reference, strict=True))
    return f"{same} of {len(results)}"


def check(bundle: Bundle, planted: bool) -> None:
    """Refuse what the questions cannot be asked of."""
    if not planted:
        require_nano(bundle)
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
@PLANTED
@reports_errors
def main(bundles: tuple[Path, ...], digits: int, scenes: int, clips: int, threads: int, planted: bool) -> None:
    """Print the table for BUNDLES of nano."""
    torch.set_num_threads(threads)
    opened = [open_bundle(bundle) for bundle in bundles]
    for bundle in opened:
        check(bundle, planted)
    questions = heldout_senses.questions(digits, scenes, clips)
    console = Console(width=160, highlight=False)
    reference = measure(Reference(checkpoint_dir()), questions)
    console.print(f"{digits} digits, {scenes} scenes, {clips} sounds\n")
    console.print("| recipe | runtime | digits | scenes | word error rate | same answers |\n|---|---|---|---|---|---|")
    console.print(f"| fp32 | transformers, eager | {figures(reference, reference)} | |")
    for bundle in opened:
        for runtime in bundle.runtimes:
            with quiet_toolchains(), tempfile.TemporaryDirectory() as folder:
                engine = open_engine(bundle, runtime)
                asked: Engine = Bundled(engine, Path(folder))
                results = measure(asked, questions)
                engine.close()
            label, shown = recipe_label(bundle), figures(results, reference)
            console.print(f"| {label} | {runtime} | {shown} | {same_answers(results, reference)} |")


if __name__ == "__main__":
    main()
