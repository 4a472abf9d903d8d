"""Train nano: ``python -m nano_training.train --out DIR --minutes N [--resume]``.

AdamW with a schedule over the time budget, so that a run ends on time on any machine. ``DIR/latest`` always points to a
complete Hugging Face folder; ``DIR/state.pt`` holds what ``--resume`` needs.
"""

import json
import math
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import click
import torch
from torch import Tensor

from g3n_compiler.nano import heldout_path
from nano_training import corpus, tokenizer
from nano_training.config import full_config
from nano_training.elastic import FULL, SMALLEST, ElasticModel, sample_slice
from nano_training.export import export
from nano_training.forward import Slice
from nano_training.tokens import encode_documents, encode_stream

TOKENS_PER_STEP = 2048
_LENGTHS, _LENGTH_WEIGHTS = (256, 512, 1024), (0.75, 0.15, 0.10)
_WARMUP = 0.01
_FINAL_RATE = 0.03
_CLIP = 1.0
_LOG_STEPS = 50
_CHECK_DOCUMENTS = 80
_SNAPSHOT = re.compile(r"step-\d{6,}")


@dataclass
class Progress:
    """Where a resumed run continues; ``seconds`` is the training time spent so far."""

    step: int = 0
    seconds: float = 0.0
    position: int = 0


def learning_rate(fraction: float, peak: float) -> float:
    """Linear warm-up, then a cosine down to a few percent of ``peak``; ``fraction`` is that of the time budget."""
    if fraction < _WARMUP:
        return peak * max(fraction, 1e-4) / _WARMUP
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, (fraction - _WARMUP) / (1 - _WARMUP))))
    return peak * (_FINAL_RATE + (1 - _FINAL_RATE) * cosine)


def batch_at(stream: Tensor, position: int, rng: Random) -> tuple[Tensor, int]:
    """The next (B, T + 1) tokens of the packed ``stream`` and the position after them; it wraps at the end."""
    length = rng.choices(_LENGTHS, _LENGTH_WEIGHTS)[0]
    rows = TOKENS_PER_STEP // length
    if position + rows * length + 1 > len(stream):
        position = rng.randrange(length)  # a different offset, so that the windows of a second round differ
    starts = range(position, position + rows * length, length)
    return torch.stack([stream[at : at + length + 1] for at in starts]), position + rows * length


def make_optimizer(weights: dict[str, Tensor], decay: float) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only; the caller sets the rate."""
    matrices = [w for w in weights.values() if w.dim() == 2]
    vectors = [w for w in weights.values() if w.dim() != 2]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-9, fused=True)


def train_step(
    elastic: ElasticModel,
    optimizer: torch.optim.AdamW,
    stream: Tensor,
    progress: Progress,
    rate: float,
    seed: int,
) -> float:
    """One update of the weights, through a slice drawn from ``seed`` and the step; returns the loss before, in nats."""
    rng = Random(f"{seed}/{progress.step}")
    for group in optimizer.param_groups:
        group["lr"] = rate
    tokens, progress.position = batch_at(stream, progress.position, rng)
    loss = elastic.loss(tokens, sample_slice(rng))
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(elastic.weights.values(), _CLIP)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    progress.step += 1
    return loss.item()


def _check(elastic: ElasticModel, documents: list[Tensor], part: Slice) -> float:
    """Perplexity on a few held-out documents, each starting at its ``<bos>``."""
    with torch.no_grad():
        losses = [(elastic.loss(d[None], part).item(), len(d) - 1) for d in documents]
    return math.exp(sum(loss * n for loss, n in losses) / sum(n for _, n in losses))


def _replace_link(link: Path, target: str) -> None:
    beside = link.with_name(link.name + ".new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    beside.replace(link)


def save_snapshot(out: Path, elastic: ElasticModel, progress: Progress, optimizer: torch.optim.AdamW) -> Path:
    """Write the model beside the last one, point ``latest`` to it, remove all but two, and write the resume state."""
    folder = out / f"step-{progress.step:06d}"
    beside = out / f".{folder.name}.partial"
    export(elastic.config, elastic.weights, out / "tokenizer", beside)
    if folder.exists():
        shutil.rmtree(folder)
    beside.rename(folder)
    _replace_link(out / "latest", folder.name)
    # By the exact form of the name: a folder of somebody else's may begin alike.
    for old in sorted(path for path in out.iterdir() if _SNAPSHOT.fullmatch(path.name))[:-2]:
        shutil.rmtree(old)
    state = {"weights": dict(elastic.weights), "optimizer": optimizer.state_dict(), "progress": vars(progress)}
    torch.save(state, out / "state.pt.partial")
    (out / "state.pt.partial").replace(out / "state.pt")
    return folder


def restore(out: Path, elastic: ElasticModel, optimizer: torch.optim.AdamW) -> Progress:
    """Load the state that :func:`save_snapshot` wrote to ``out`` into the model and its optimizer."""
    state = torch.load(out / "state.pt", weights_only=True)
    with torch.no_grad():
        for name, weight in elastic.weights.items():
            weight.copy_(state["weights"][name])
    optimizer.load_state_dict(state["optimizer"])
    return Progress(**state["progress"])


def _prepare(out: Path, cache: Path) -> Tensor:
    """The packed training tokens; writes the tokenizer and the held-out documents on first use."""
    out.mkdir(parents=True, exist_ok=True)
    text = corpus.build(cache)
    if not (out / "tokenizer").exists():
        template = Path(__file__).with_name(tokenizer.CHAT_TEMPLATE_FILE).read_text("utf-8")
        tokenizer.save(tokenizer.train(d.text for d in text.train), template, out / "tokenizer")
        corpus.write_documents(text.heldout, heldout_path())
    return encode_stream(text.train, out / "tokenizer" / "tokenizer.json")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder for snapshots, log and state")
@click.option("--minutes", type=float, required=True, help="time budget of the whole training, resumed or not")
@click.option("--cache", type=click.Path(path_type=Path), default=Path("nano-corpus"), help="folder for the packages")
@click.option("--resume", is_flag=True, help="go on from DIR/state.pt")
@click.option("--peak-rate", default=3e-3, show_default=True)
@click.option("--decay", default=0.02, show_default=True, help="weight decay of matrices")
@click.option("--snapshot-minutes", default=10.0, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--compile/--no-compile", "compiled", default=True, show_default=True, help="needs a C++ compiler")
@click.option("--seed", default=1, show_default=True)
def main(
    out: Path,
    minutes: float,
    cache: Path,
    resume: bool,
    peak_rate: float,
    decay: float,
    snapshot_minutes: float,
    threads: int,
    compiled: bool,
    seed: int,
) -> None:
    """Train nano for MINUTES and leave the last snapshot in OUT/latest."""
    torch.set_num_threads(threads)
    stream = _prepare(out, cache)
    heldout = corpus.read_documents(heldout_path())[:_CHECK_DOCUMENTS]
    checks = encode_documents(heldout, out / "tokenizer" / "tokenizer.json")
    elastic = ElasticModel(full_config(), seed, compiled)
    optimizer = make_optimizer(elastic.weights, decay)
    progress = restore(out, elastic, optimizer) if resume else Progress()
    budget, began = minutes * 60, time.monotonic() - progress.seconds
    # the first snapshot comes after a minute, so that there is always one
    saved, logged, mean_loss = progress.seconds - snapshot_minutes * 60 + 60, time.monotonic(), 0.0
    while progress.seconds < budget:
        rate = learning_rate(progress.seconds / budget, peak_rate)
        mean_loss += train_step(elastic, optimizer, stream, progress, rate, seed) / _LOG_STEPS
        progress.seconds = time.monotonic() - began
        if progress.step % _LOG_STEPS == 0:
            speed = _LOG_STEPS * TOKENS_PER_STEP / (time.monotonic() - logged)
            click.echo(
                f"step {progress.step} {progress.seconds:.0f}s rate {rate:.2e} loss {mean_loss:.3f} {speed:.0f} tok/s"
            )
            logged, mean_loss = time.monotonic(), 0.0
        if progress.seconds - saved > snapshot_minutes * 60 or progress.seconds >= budget:
            saved = progress.seconds
            folder = save_snapshot(out, elastic, progress, optimizer)
            figures = {"full": _check(elastic, checks, FULL), "smallest": _check(elastic, checks, SMALLEST)}
            record = {"snapshot": folder.name, **vars(progress), "heldout_subset_perplexity": figures}
            with (out / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(record) + "\n")
            click.echo(json.dumps(record))


if __name__ == "__main__":
    main()
