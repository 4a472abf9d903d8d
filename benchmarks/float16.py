"""What float16 activations, a phone GPU's default, do to a checkpoint: the range of each layer, and the error.

    python benchmarks/float16.py [CHECKPOINT ...] [--texts 8] [--tokens 200] [--layers]

Our decoder runs over exact weights twice: in float32, and with the result of every operation rounded to float16, as a
GPU stores it (it sums in float32). The table gives the largest magnitude of any intermediate value (float16 ends at
65,504), how many layers reach infinity, the relative error of the logits, and how often the most likely token is the
same. ``--layers`` adds a table of the layers: the range of each one's values and of the streams after it, and the
relative error of those streams in float16, at the worst position. Texts are nano's held-out documents.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from rich.console import Console
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.cli.common import reports_errors
from g3n_compiler.models.eager_cache import EagerCache
from g3n_compiler.models.gemma3n.decoder import TextDecoder
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.models.weights import Weights
from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.source import TEXT, Source
from g3n_compiler.verify.checks import relative_error
from g3n_compiler.verify.reference import Reference


class Activations(TorchDispatchMode):
    """Watches every float32 result, and rounds it to float16 if asked; a layer's values are those since the last."""

    def __init__(self, rounds: bool) -> None:
        super().__init__()
        self._rounds = rounds
        self._now = 0.0
        self.largest: list[float] = []
        """The largest magnitude of each layer's values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype == torch.float32 and out.numel():
            # The masks of attention are very low by intent, and a GPU has its own for them.
            values = torch.where(out <= -1e8, torch.zeros_like(out), out)
            largest = float(values.abs().max())
            self._now = max(self._now, math.inf if math.isnan(largest) else largest)
            if self._rounds:
                out = torch.where(out <= -1e8, out, out.to(torch.float16).to(torch.float32))
        return out

    def next_layer(self) -> None:
        self.largest.append(self._now)
        self._now = 0.0


class UnwatchedWeights:
    """Weights that may be read and multiplied in pieces: only the product is an activation."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def tensor(self, name: str) -> torch.Tensor:
        with _disable_current_modes():
            return self._weights.tensor(name)

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        with _disable_current_modes():
            product = self._weights.linear(name, x)
        return product.clone()


class Run(NamedTuple):
    """Logits ``[T, vocab]``, and for each layer the largest value inside it and the streams after it ``[T, N]``."""

    logits: torch.Tensor
    inside: list[float]
    streams: list[np.ndarray]


def run(reference: Reference, ids: Sequence[int], rounds: bool) -> Run:
    """Run ``ids`` with or without rounding."""
    watched, streams = Activations(rounds), list[np.ndarray]()

    def observe(layer: int, found: Any) -> None:
        with _disable_current_modes():
            streams.append(torch.cat([s[0] for s in found], -1).numpy())
        watched.next_layer()

    exact = reference.decoder
    assert isinstance(exact, TextDecoder)
    decoder = TextDecoder(exact.config, UnwatchedWeights(exact.weights), exact.dialect, observe)
    embeddings, ple = reference.tables.embeddings(ids), reference.tables.ple(ids)
    with torch.no_grad(), watched:
        logits = decoder.decode(embeddings, ple, torch.arange(len(ids)), EagerCache(exact.config))[0]
    return Run(logits, watched.largest, streams)


def measure(checkpoint: Path, texts: Sequence[str], tokens: int) -> dict[str, Any]:
    """What the table says of one checkpoint."""
    source = Source.open(checkpoint, modalities=(TEXT,))
    tokenizer, reference = load_tokenizer(source.directory, gemma3n_config(source.text)), Reference(source)
    layers = source.text.num_layers
    inside, between, errors = [0.0] * layers, [0.0] * layers, [0.0] * layers
    worst, same, count, broken = 0.0, 0, 0, set[int]()
    for text in texts:
        ids = [tokenizer.bos_id, *tokenizer.encode(text)][:tokens]
        want, got = run(reference, ids, rounds=False), run(reference, ids, rounds=True)
        inside = [max(pair) for pair in zip(inside, want.inside, strict=True)]
        between = [max(most, float(np.abs(own).max())) for most, own in zip(between, want.streams, strict=True)]
        found = zip(errors, got.streams, want.streams, strict=True)
        errors = [max(most, relative_error(here, there)) for most, here, there in found]
        broken |= {i for i, value in enumerate(got.inside) if math.isinf(value)}
        worst = max(worst, relative_error(got.logits.numpy().reshape(1, -1), want.logits.numpy().reshape(1, -1)))
        same += int((got.logits.argmax(-1) == want.logits.argmax(-1)).sum())
        count += len(ids)
    return {
        "inside": inside, "streams": between, "errors": errors,
        "error": worst, "same": same / count, "broken": sorted(broken),
    }  # fmt: skip


@click.command()
@click.argument("checkpoints", nargs=-1, type=click.Path(path_type=Path))
@click.option("--texts", "count", default=8, show_default=True)
@click.option("--tokens", default=200, show_default=True, help="At most, of each text.")
@click.option("--layers", is_flag=True, help="Also the range and the error of each layer.")
@reports_errors
def main(checkpoints: Sequence[Path], count: int, tokens: int, layers: bool) -> None:
    """Print the table for CHECKPOINTS, by default the embedded one."""
    lines = (checkpoint_dir().parent / "heldout.jsonl").read_text("utf-8").splitlines()[:count]
    texts, console = [json.loads(line)["text"] for line in lines], Console(width=160, highlight=False)
    console.print("| checkpoint | largest value | in the streams | layers at infinity | error of logits | same token |")
    console.print("|---|---|---|---|---|---|")
    for checkpoint in checkpoints or (checkpoint_dir(),):
        found = measure(checkpoint, texts, tokens)
        name = "nano" if checkpoint == checkpoint_dir() else checkpoint.name
        console.print(
            f"| {name} | {max(found['inside']):,.0f} | {max(found['streams']):,.0f} | {len(found['broken'])} of "
            f"{len(found['inside'])} | {found['error']:.1e} | {found['same']:.1%} |"
        )
        if layers:
            console.print("\n| layer | largest value inside | in the streams | error of the streams in float16 |")
            console.print("|---|---|---|---|")
            rows = zip(found["inside"], found["streams"], found["errors"], strict=True)
            for i, (own, between, error) in enumerate(rows):
                console.print(f"| {i} | {own:,.0f} | {between:,.1f} | {error:.1e} |")
            console.print()


if __name__ == "__main__":
    main()
