"""Teach nano tasks: ``python -m nano_training.teach --out DIR --minutes N``.

The text model goes on from the checkpoint of ``--start``; the towers stay as they are, and their soft tokens are made
once. Every few steps it reads its old text again, and sees and hears, so that it keeps both. The rate follows the time,
so that a run ends on time on any machine. It can be stopped and resumed (``--resume``) at any moment.
"""

import json
import time
from collections import defaultdict
from pathlib import Path
from random import Random

import click
import torch
from tokenizers import Tokenizer

from g3n_compiler.nano import checkpoint_dir
from nano_training import corpus, towers
from nano_training.lessons import record
from nano_training.pictures import fetch_digits
from nano_training.senses import Senses
from nano_training.tasks.curriculum import Curriculum
from nano_training.tasks.filler import Filler
from nano_training.tasks.learner import Learner, Progress
from nano_training.tasks.media import load, make_galleries, save
from nano_training.tasks.score import score
from nano_training.tokens import encode_stream
from nano_training.train import learning_rate
from nano_training.voices import speak, training_voices

_LOG_STEPS = 100
_PHRASES, _SOUNDS = 24, 3000
_CHECKED = 12
"""Held-out examples of each text task in the log's scores."""


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder for log, state and checkpoint")
@click.option("--minutes", type=float, required=True, help="time of the whole training, resumed or not")
@click.option("--start", type=click.Path(path_type=Path, exists=True), default=checkpoint_dir(), help="checkpoint")
@click.option("--cache", type=click.Path(path_type=Path), default=Path("nano-corpus"), help="folder for the packages")
@click.option("--resume", is_flag=True, help="go on from DIR/state.pt")
@click.option("--peak-rate", default=2.5e-3, show_default=True)
@click.option("--decay", default=0.02, show_default=True, help="weight decay of matrices")
@click.option("--pictures", default=1200, show_default=True, help="digits and sounds whose soft tokens are made")
@click.option("--save-minutes", default=5.0, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--compile/--no-compile", "compiled", default=True, show_default=True, help="needs a C++ compiler")
@click.option("--seed", default=1, show_default=True)
def main(
    out: Path,
    minutes: float,
    start: Path,
    cache: Path,
    resume: bool,
    peak_rate: float,
    decay: float,
    pictures: int,
    save_minutes: float,
    threads: int,
    compiled: bool,
    seed: int,
) -> None:
    """Train for MINUTES and write the checkpoint to OUT/checkpoint."""
    torch.set_num_threads(threads)
    torch._dynamo.config.recompile_limit = 64  # one graph for each width and number of positions
    out.mkdir(parents=True, exist_ok=True)
    words = start / "tokenizer.json"
    senses = Senses(towers.load(start))
    kept = out / "galleries.pt"
    if not kept.is_file():
        digits, _ = fetch_digits(cache)
        sounds = record(
            speak(training_voices(), _PHRASES, cache), seed, _SOUNDS, cache / f"sounds-{seed}-{_SOUNDS}.npz"
        )
        save(make_galleries(senses, digits, sounds, seed, pictures), kept)
    text = corpus.build(cache)
    tokenizer = Tokenizer.from_file(str(words))
    curriculum = Curriculum(tokenizer, Filler.of(tokenizer, text.train), load(kept))
    learner = Learner(senses, curriculum.galleries, encode_stream(text.train, words), decay, compiled)
    heldout = Filler.of(tokenizer, text.heldout)
    progress = learner.restore(out / "state.pt") if resume else Progress()
    budget, began = minutes * 60, time.monotonic() - progress.seconds
    saved, sums = progress.seconds, defaultdict[str, list[float]](list)
    while progress.seconds < budget:
        fraction = progress.seconds / budget
        lesson = curriculum.lesson(Random(f"{seed}/{progress.step}"), fraction)
        for task, value in learner.step(lesson, learning_rate(fraction, peak_rate), progress.step).items():
            sums[task].append(value)
        progress.step += 1
        progress.seconds = time.monotonic() - began
        if progress.step % _LOG_STEPS == 0:
            means = {task: round(sum(values) / len(values), 3) for task, values in sorted(sums.items())}
            _log(out, {"step": progress.step, "seconds": round(progress.seconds), **means})
            sums.clear()
        if progress.seconds - saved > save_minutes * 60 or progress.seconds >= budget:
            saved = progress.seconds
            learner.save(out / "state.pt", progress)
            found = score(learner, tokenizer, heldout, curriculum.galleries, _CHECKED)
            _log(out, {"step": progress.step, "heldout": found})
    towers.export(senses.model, start, out / "checkpoint")


def _log(out: Path, entry: dict[str, object]) -> None:
    click.echo(json.dumps(entry))
    with (out / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    main()
