"""Teach nano images and sound: ``python -m nano_training.train_senses --out DIR --minutes N [--resume]``.

First the towers learn alone, through classifiers on their soft tokens and with small pictures and single words; then
through the text model, which has to answer. The text model itself learns only with ``--train-text``; it keeps its
English because some of the lessons then come from its original training text. Rates follow the time budget, so that a
run ends on time on any machine; it can be stopped and resumed at any moment.
"""

import json
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import click
import torch

from g3n_compiler.nano import checkpoint_dir
from nano_training import towers
from nano_training.heads import Heads
from nano_training.lessons import Sound, SpeechLessons, record
from nano_training.pictures import fetch_digits
from nano_training.replay import Replay
from nano_training.senses import Prompts, Senses
from nano_training.senses_optimizer import (
    Progress,
    learning_rate,
    make_optimizer,
    restore,
    save_state,
    update,
    warm_up,
)
from nano_training.senses_trainer import Lesson, Trainer
from nano_training.voices import speak, training_voices

PHRASES = 24
"""Phrases of several words that each training voice says, in addition to every single word."""

SOUNDS = 6000
"""Distorted utterances made from them."""

_LOG_STEPS = 60
_UNUSED = {"both": (), "sight": ("audio_tower", "embed_audio"), "hearing": ("vision_tower", "embed_vision")}
"""What each choice of ``--sense`` leaves untrained and out of its state."""


@dataclass(frozen=True)
class Options:
    """Those of :func:`main`."""

    out: Path
    minutes: float
    cache: Path
    resume: bool
    alone: float
    peak_rate: float
    text_share: float
    decay: float
    batch: int
    save_minutes: float
    threads: int
    compiled: bool
    train_text: bool
    seed: int
    sense: str
    text: Path
    warm: tuple[Path, ...]


def _sounds(seed: int, cache: Path) -> list[Sound]:
    """The disturbed utterances of the training voices, made on first use."""
    return record(speak(training_voices(), PHRASES, cache), seed, SOUNDS, cache / f"sounds-{seed}-{SOUNDS}.npz")


class Run:
    """One training run: what learns, from what, and how far it has come."""

    def __init__(self, options: Options) -> None:
        self._options, o = options, options
        digits, _ = fetch_digits(o.cache)
        sounds = [] if o.sense == "sight" or not o.minutes else _sounds(o.seed, o.cache)
        model = towers.build(towers.text_weights(o.text), o.seed)
        model.model.language_model.requires_grad_(o.train_text)
        for part in _UNUSED[o.sense]:
            model.model.get_submodule(part).requires_grad_(False)
        words = o.text / "tokenizer.json"
        self._senses, self._heads = Senses(model, o.compiled), Heads(model.config.text_config.hidden_size)
        trainer = Trainer(self._senses, self._heads, Prompts(words), digits, SpeechLessons(sounds), o.batch)
        self._optimizer = make_optimizer(self._senses, self._heads, o.decay, o.text_share)
        if o.minutes and not o.resume and not o.warm:
            trainer.settle(Random(f"{o.seed}/settle"), o.sense)
        for state in o.warm:
            warm_up(state, self._senses, self._heads)
        self._progress = restore(o.out, self._senses, self._heads, self._optimizer) if o.resume else Progress()
        early: tuple[Lesson, ...] = (trainer.picture_class, trainer.speech_class)
        late: tuple[Lesson, ...] = (trainer.picture_answer, trainer.speech_answer)
        taught = {"both": slice(0, 2), "sight": slice(0, 1), "hearing": slice(1, 2)}[o.sense]
        self._early, self._late = early[taught], late[taught]
        if o.train_text and o.minutes:
            config = model.config.text_config
            replay = Replay.from_corpus(config, self._senses.text, o.cache, words, o.compiled)
            self._late = (*self._late, replay.text)

    def train(self) -> None:
        """Use the remaining processor time, with a line in the log every :data:`_LOG_STEPS` steps."""
        progress, budget = self._progress, self._options.minutes * 60
        began, saved = time.process_time() - progress.seconds, progress.seconds
        sums = defaultdict[str, list[tuple[float, float, float]]](list)
        while progress.seconds < budget:
            start = time.process_time()
            name, loss, right = self._step(progress.seconds / budget)
            sums[name].append((loss, right, time.process_time() - start))
            progress.step += 1
            progress.seconds = time.process_time() - began
            if progress.step % _LOG_STEPS == 0:
                self._log(sums)
                sums.clear()
            if progress.seconds - saved > self._options.save_minutes * 60:
                saved = progress.seconds
                self.save()

    def save(self) -> None:
        """The state to resume from."""
        save_state(self._options.out, self._senses, self._heads, self._optimizer, self._progress)

    def export(self) -> Path:
        """Write the checkpoint's folder."""
        folder = self._options.out / "checkpoint"
        towers.export(self._senses.model, self._options.text, folder)
        return folder

    def _step(self, fraction: float) -> tuple[str, float, float]:
        """One lesson: its name, its loss, and the share of correct rows."""
        o, step = self._options, self._progress.step
        lessons = self._early if fraction < o.alone else self._late
        lesson = lessons[step % len(lessons)]
        loss, right = lesson(Random(f"{o.seed}/{step}"), fraction)
        loss.backward()  # type: ignore[no-untyped-call]
        update(self._optimizer, learning_rate(fraction, step, o.peak_rate))
        return lesson.__name__, loss.item(), right

    def _log(self, sums: dict[str, list[tuple[float, float, float]]]) -> None:
        """For each lesson, the mean loss, the share of correct rows, and processor seconds."""
        means = {name: [round(sum(c) / len(c), 3) for c in zip(*rows, strict=True)] for name, rows in sums.items()}
        entry = {"step": self._progress.step, "seconds": round(self._progress.seconds), **means}
        click.echo(json.dumps(entry))
        with (self._options.out / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder for log, state and checkpoint")
@click.option("--minutes", type=float, required=True, help="processor time of the whole training, resumed or not")
@click.option("--cache", type=click.Path(path_type=Path), default=Path("nano-corpus"), help="folder for the packages")
@click.option("--resume", is_flag=True, help="go on from DIR/state.pt")
@click.option("--alone", default=0.45, show_default=True, help="share of the time in which towers learn alone")
@click.option("--peak-rate", default=4e-3, show_default=True)
@click.option("--text-share", default=0.3, show_default=True, help="share of the rate that the text model takes")
@click.option("--decay", default=0.02, show_default=True, help="weight decay of matrices and kernels")
@click.option("--batch", default=32, show_default=True)
@click.option("--save-minutes", default=1.0, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--compile/--no-compile", "compiled", default=True, show_default=True, help="needs a C++ compiler")
@click.option("--train-text/--freeze-text", default=False, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--sense", type=click.Choice(["both", "sight", "hearing"]), default="both", show_default=True)
@click.option(
    "--text",
    type=click.Path(path_type=Path, exists=True),
    default=checkpoint_dir(),
    help="checkpoint of the text model",
)
@click.option(
    "--warm", type=click.Path(path_type=Path, exists=True), multiple=True, help="begin from the state.pt of other runs"
)
def main(**given: Any) -> None:
    """Train nano's senses for MINUTES of processor time and leave the checkpoint in OUT/checkpoint."""
    options = Options(**given)
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    run = Run(options)
    run.train()
    run.save()
    click.echo(run.export())


if __name__ == "__main__":
    main()
