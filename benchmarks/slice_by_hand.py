"""A slice of a checkpoint of the true size against plain indexing of its tensors, read by another library.

    python benchmarks/slice_by_hand.py CHECKPOINT [--size e2b]

Every weight of the slice is compared, some rows at a time; exits non-zero at the first that differs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.progress import track
from safetensors import safe_open

from g3n_compiler.cli.common import reports_errors
from g3n_compiler.models.embedding_tables import embedding_weights
from g3n_compiler.models.registry import text_weights
from g3n_compiler.models.weights import WeightSpec
from g3n_compiler.slice.elastic import plan_named
from g3n_compiler.source import TEXT, Source

ROWS = 1 << 13
Rows = Callable[[int, int], torch.Tensor]


class ByHand:
    """Rows of the whole checkpoint's tensors, indexed as the MatFormer paper describes a slice."""

    def __init__(self, directory: Path, kept: tuple[int, ...], ple: int) -> None:
        index = json.loads((directory / "model.safetensors.index.json").read_text(encoding="utf-8"))["weight_map"]
        shards: dict[str, Any] = {name: safe_open(directory / name, "pt") for name in set(index.values())}
        self._slices = {name.split("language_model.")[-1]: shards[f].get_slice(name) for name, f in index.items()}
        self._kept, self._ple = kept, ple

    def rows(self, spec: WeightSpec) -> Rows:
        name, kept, ple = spec.name, self._kept, self._ple
        if name.startswith("embed_tokens_per_layer"):
            columns = [c for i in kept for c in range(i * ple, (i + 1) * ple)]
            return lambda begin, end: self._slices["embed_tokens_per_layer.weight"][begin:end][:, columns]
        if not name.startswith("layers."):
            stored = self._slices["embed_tokens.weight" if name == "lm_head" else f"{name}.weight"]
            return lambda begin, end: stored[begin:end]
        _, number, rest = name.split(".", 2)
        if rest == "per_layer_model_projection":
            stored, first = self._slices["per_layer_model_projection.weight"], kept[int(number)] * ple
            return lambda begin, end: stored[first + begin : first + end]
        full = f"layers.{kept[int(number)]}.{rest}"
        stored = self._slices[full if full in self._slices else f"{full}.weight"]
        if rest == "mlp.down_proj":
            return lambda begin, end: stored[begin:end][:, : spec.shape[1]]
        return lambda begin, end: stored[begin:end]


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--size", "name", default="e2b", show_default=True)
@reports_errors
def main(checkpoint: Path, name: str) -> None:
    """Compare every weight of size NAME of CHECKPOINT."""
    console = Console()
    whole = Source.open(checkpoint, modalities=(TEXT,))
    plan = plan_named(name, whole.text)
    sliced = whole.sliced(plan)
    hand, config = ByHand(checkpoint, plan.kept, sliced.text.ple_dim), sliced.text
    specs = list((text_weights(config) | embedding_weights(config)).values())
    for spec in track(specs, "comparing", console=console):
        expected = hand.rows(spec)
        for begin in range(0, spec.shape[0], ROWS):
            end = min(spec.shape[0], begin + ROWS)
            got = sliced.read(spec, (begin, end))
            if not torch.equal(got, expected(begin, end).float()):
                raise SystemExit(f"{spec.name} differs in rows {begin} to {end}")
    console.print(f"{len(specs)} weights of {name}, {config.num_layers} layers, equal plain indexing")


if __name__ == "__main__":
    main()
