"""Teaches nano to see and hear: ``python -m g3n_compiler.nano.train_senses --out DIR --minutes N [--resume]``.

The text model stays as it is, unless ``--train-text``. First the towers learn alone, through classifiers on their soft
tokens and on tiny pictures and single words; then through the text model, which has to answer. Rates follow the time
budget, so that a run ends when it should on any machine; it can be stopped and resumed at any moment.
"""

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import click
import torch
from torch import Tensor, nn

from g3n_compiler.nano import checkpoint_dir, towers
from g3n_compiler.nano.heads import Heads
from g3n_compiler.nano.lessons import (
    DIGIT_QUESTIONS,
    SCENE_QUESTIONS,
    SPEECH_QUESTIONS,
    PictureBatch,
    Sound,
    SpeechLessons,
    picture_batch,
    record,
)
from g3n_compiler.nano.pictures import SHARE, DigitSet, fetch_digits
from g3n_compiler.nano.senses import SOFT_TOKENS, Modality, Prompts, Senses, random_layout
from g3n_compiler.nano.settle import settle
from g3n_compiler.nano.towers import IMAGE_SIZE
from g3n_compiler.nano.voices import speak, training_voices

PHRASES = 24
"""Phrases of several words that each training voice says, beside every single word."""

SOUNDS = 6000
"""Disturbed utterances made of them."""

_CLIP = 1.0
_FULL_RATE_FAN_IN = 128
_WARMUP_STEPS = 50
_LOG_STEPS = 50
_ROOM: dict[Modality, int] = {"image": 9, "audio": 14}
_WHOLE_FROM = 0.86
"""Share of the time from which on pictures are whole and prompts as long as the library's."""

_SIDES = ((0.15, 32, (0.75, 1.0)), (0.78, 64, (0.4, 0.95)), (_WHOLE_FROM, 128, (0.22, 0.6)), (1.0, IMAGE_SIZE, SHARE))
"""Until which share of the time pictures have how many pixels a side, and how much of them is taken by what they show:
about as many pixels always, on more and more paper."""

_UNUSED = {"both": (), "sight": ("audio_tower", "embed_audio"), "hearing": ("vision_tower", "embed_vision")}
"""What each choice of ``--sense`` leaves untrained and out of its state."""

_SCENES = 0.25
"""Share of pictures that show a shape and not a digit."""

_ASIDE = 0.3
"""Weight of the classifiers' losses beside the answers'."""

_LENGTHS: tuple[tuple[tuple[int, ...], int], ...] = (((1,), 128), ((1,), 128), ((2,), 192))
"""Words of a batch, and the log-mel frames that hold them."""

_SINGLE_UNTIL = 0.35
"""Share of the time until which speech is single words."""


@dataclass
class Progress:
    """What a resumed run goes on from; ``seconds`` is the processor time spent so far."""

    step: int = 0
    seconds: float = 0.0


def learning_rate(fraction: float, step: int, peak: float) -> float:
    """Linear warm-up, then a cosine down to a fiftieth; ``fraction`` of the time budget."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))
    return peak * min(1.0, (step + 1) / _WARMUP_STEPS) * (0.02 + 0.98 * cosine)


class Trainer:
    """One model, its lessons, and the steps over them."""

    def __init__(
        self,
        senses: Senses,
        heads: Heads,
        prompts: Prompts,
        digits: DigitSet,
        speech: SpeechLessons,
        batch: int,
    ) -> None:
        self.senses, self.heads, self.prompts = senses, heads, prompts
        self._digits, self._speech, self._batch = digits, speech, batch

    def _pictures(self, rng: Random, fraction: float, scenes: float) -> PictureBatch:
        side, share = next((side, share) for until, side, share in _SIDES if fraction <= until or until == 1.0)
        return picture_batch(self._digits, rng, max(4, self._batch * 64 // side), side, share, scenes)

    def picture_class(self, rng: Random, fraction: float) -> tuple[Tensor, float]:
        """Pictures, through the classifier."""
        lesson = self._pictures(rng, fraction, _SCENES)
        return self.heads.picture_loss(self.senses.see(lesson.pixels), lesson.captions)

    def speech_class(self, rng: Random, fraction: float) -> tuple[Tensor, float]:
        """Speech, through the classifier: at first one word at a time."""
        words, frames = _LENGTHS[0] if fraction < _SINGLE_UNTIL else rng.choice(_LENGTHS)
        lesson = self._speech.batch(rng, 2 * self._batch, words, frames)
        return self.heads.speech_loss(*self.senses.hear(lesson.mel, lesson.valid), lesson.words)

    def settle(self, rng: Random, sense: str) -> None:
        """Fresh towers made ready to learn, by one batch of each kind (:mod:`g3n_compiler.nano.settle`)."""
        inner = self.senses.model.model
        if sense != "hearing":
            pixels = picture_batch(self._digits, rng, 64, *_SIDES[1][1:], 0.5).pixels
            settle((inner.vision_tower, inner.embed_vision), lambda: self.senses.see(pixels))
        if sense != "sight":
            sound = self._speech.batch(rng, 64, *_LENGTHS[0])
            settle((inner.audio_tower, inner.embed_audio), lambda: self.senses.hear(sound.mel, sound.valid))

    def picture_answer(self, rng: Random, fraction: float) -> tuple[Tensor, float]:
        """Pictures, through the text model: early on small ones, of which it sees fewer tokens."""
        scenes = rng.random() < _SCENES
        lesson = self._pictures(rng, fraction, float(scenes))
        soft = self.senses.see(lesson.pixels)
        layout = random_layout(SCENE_QUESTIONS if scenes else DIGIT_QUESTIONS, rng)
        prompt = self.prompts.prompt(layout, "image", soft.shape[1])
        ids, targets = self.prompts.rows(prompt, lesson.captions, _ROOM["image"])
        loss, right = self.senses.loss(ids, targets, soft, "image", len(prompt) - 1)
        return loss + _ASIDE * self.heads.picture_loss(soft, lesson.captions)[0], right

    def speech_answer(self, rng: Random, fraction: float) -> tuple[Tensor, float]:
        """Speech, through the text model: at last padded as the library does, early on to fewer tokens."""
        words, frames = rng.choice(_LENGTHS)
        lesson = self._speech.batch(rng, self._batch, words, frames)
        soft, sounding = self.senses.hear(lesson.mel, lesson.valid)
        count = SOFT_TOKENS["audio"] if fraction > _WHOLE_FROM and rng.random() < 0.8 else frames // 16
        prompt = self.prompts.prompt(random_layout(SPEECH_QUESTIONS, rng), "audio", count)
        answers = [" ".join(said) for said in lesson.words]
        ids, targets = self.prompts.rows(prompt, answers, _ROOM["audio"])
        padded = self.senses.pad_sound(soft, sounding, count)
        loss, right = self.senses.loss(ids, targets, padded, "audio", len(prompt) - 1)
        return loss + _ASIDE * self.heads.speech_loss(soft, sounding, lesson.words)[0], right


Lesson = Callable[[Random, float], tuple[Tensor, float]]


def _sounds(seed: int, cache: Path) -> list[Sound]:
    """The disturbed utterances of the training voices, made on first use."""
    return record(speak(training_voices(), PHRASES, cache), seed, SOUNDS, cache / f"sounds-{seed}-{SOUNDS}.npz")


def make_optimizer(parts: Iterable[nn.Parameter], decay: float) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices and kernels only; the caller sets each group's rate, times its ``share``.

    A step of Adam changes an output by the rate times the fan-in: wide layers take smaller ones.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for p in parts:
        if p.requires_grad:
            share = min(1.0, _FULL_RATE_FAN_IN / p[0].numel()) if p.dim() >= 2 else math.inf
            groups.setdefault(share, []).append(p)
    settings = [
        {"params": held, "share": min(share, 1.0), "weight_decay": 0.0 if share == math.inf else decay}
        for share, held in groups.items()
    ]
    return torch.optim.AdamW(settings, betas=(0.9, 0.98), eps=1e-8)


def _trained(senses: Senses) -> dict[str, nn.Parameter]:
    return {name: p for name, p in senses.model.named_parameters() if p.requires_grad}


def save_state(out: Path, senses: Senses, heads: Heads, optimizer: torch.optim.AdamW, progress: Progress) -> None:
    """Write ``out/state.pt`` for :func:`restore`."""
    state = {
        "weights": {name: p.detach() for name, p in _trained(senses).items()},
        "heads": heads.state_dict(),
        "optimizer": optimizer.state_dict(),
        "progress": vars(progress),
    }
    torch.save(state, out / "state.pt.partial")
    (out / "state.pt.partial").replace(out / "state.pt")


def restore(out: Path, senses: Senses, heads: Heads, optimizer: torch.optim.AdamW) -> Progress:
    """Load what :func:`save_state` left."""
    state = torch.load(out / "state.pt", weights_only=True)
    with torch.no_grad():
        for name, p in _trained(senses).items():
            p.copy_(state["weights"][name])
    heads.load_state_dict(state["heads"])
    optimizer.load_state_dict(state["optimizer"])
    return Progress(**state["progress"])


def warm_up(state_file: Path, senses: Senses, heads: Heads) -> None:
    """Take the weights of another run's state wherever name and shape agree; its optimizer and progress are not."""
    state = torch.load(state_file, weights_only=True)
    with torch.no_grad():
        for own, found in ((_trained(senses), state["weights"]), (dict(heads.named_parameters()), state["heads"])):
            for name, p in own.items():
                if name in found and found[name].shape == p.shape:
                    p.copy_(found[name])


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder for snapshots, log and state")
@click.option("--minutes", type=float, required=True, help="processor time of the whole training, resumed or not")
@click.option("--cache", type=click.Path(path_type=Path), default=Path("nano-corpus"), help="folder for the packages")
@click.option("--resume", is_flag=True, help="go on from DIR/state.pt")
@click.option("--alone", default=0.45, show_default=True, help="share of the time in which towers learn alone")
@click.option("--peak-rate", default=4e-3, show_default=True)
@click.option("--decay", default=0.02, show_default=True, help="weight decay of matrices and kernels")
@click.option("--batch", default=32, show_default=True)
@click.option("--save-minutes", default=1.0, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--compile/--no-compile", "compiled", default=True, show_default=True, help="needs a C++ compiler")
@click.option("--train-text/--freeze-text", default=False, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--sense", type=click.Choice(["both", "sight", "hearing"]), default="both", show_default=True)
@click.option(
    "--warm", type=click.Path(path_type=Path, exists=True), multiple=True, help="begin from the state.pt of other runs"
)
def main(
    out: Path,
    minutes: float,
    cache: Path,
    resume: bool,
    alone: float,
    peak_rate: float,
    decay: float,
    batch: int,
    save_minutes: float,
    threads: int,
    compiled: bool,
    train_text: bool,
    seed: int,
    sense: str,
    warm: tuple[Path, ...],
) -> None:
    """Train nano's towers for MINUTES of processor time and leave the checkpoint in OUT/checkpoint."""
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    source = checkpoint_dir()
    digits, _ = fetch_digits(cache)
    sounds = [] if sense == "sight" or not minutes else _sounds(seed, cache)
    speech = SpeechLessons(sounds)
    model = towers.build(towers.text_weights(source), seed)
    model.model.language_model.requires_grad_(train_text)
    for part in _UNUSED[sense]:
        model.model.get_submodule(part).requires_grad_(False)
    senses, heads = Senses(model, compiled), Heads(model.config.text_config.hidden_size)
    trainer = Trainer(senses, heads, Prompts(source / "tokenizer.json"), digits, speech, batch)
    optimizer = make_optimizer([*model.parameters(), *heads.parameters()], decay)
    if minutes and not resume and not warm:
        trainer.settle(Random(f"{seed}/settle"), sense)
    for state in warm:
        warm_up(state, senses, heads)
    progress = restore(out, senses, heads, optimizer) if resume else Progress()
    early: tuple[Lesson, ...] = (trainer.picture_class, trainer.speech_class)
    late: tuple[Lesson, ...] = (trainer.picture_answer, trainer.speech_answer)
    if sense != "both":
        early, late = ((early[0],), (late[0],)) if sense == "sight" else ((early[1],), (late[1],))
    budget, began = minutes * 60, time.process_time() - progress.seconds
    saved, sums = progress.seconds, defaultdict[str, list[tuple[float, float, float]]](list)
    while progress.seconds < budget:
        fraction = progress.seconds / budget
        rng = Random(f"{seed}/{progress.step}")
        lessons = early if fraction < alone else late
        lesson = lessons[progress.step % len(lessons)]
        rate = learning_rate(fraction, progress.step, peak_rate)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        start = time.process_time()
        loss, right = lesson(rng, fraction)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([*_trained(senses).values(), *heads.parameters()], _CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        sums[lesson.__name__].append((loss.item(), right, time.process_time() - start))
        progress.step += 1
        progress.seconds = time.process_time() - began
        if progress.step % _LOG_STEPS == 0:
            means = {name: [round(sum(c) / len(c), 3) for c in zip(*rows, strict=True)] for name, rows in sums.items()}
            entry = {"step": progress.step, "seconds": round(progress.seconds), "rate": round(rate, 6), **means}
            click.echo(json.dumps(entry))
            with (out / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(entry) + "\n")
            sums.clear()
        if progress.seconds - saved > save_minutes * 60:
            saved = progress.seconds
            save_state(out, senses, heads, optimizer, progress)
    save_state(out, senses, heads, optimizer, progress)
    towers.export(model, source, out / "checkpoint")
    click.echo(f"{progress.step} steps: {out / 'checkpoint'}")


if __name__ == "__main__":
    main()
