"""What it saves that prompt tokens skip the KV-shared layers: operators of the graph, and time under LiteRT's XNNPACK.

    python benchmarks/prefill_skip.py [--tokens 1024]

Lowers a random checkpoint (half of its layers KV-shared, as in E4B nearly) twice: as a bundle has it, and with every
layer over every prompt token. Both run in turn in one process; the ratio of their best times is what counts.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from lab import save_random, seconds_of
from rich.console import Console
from torch import Tensor

from g3n_compiler.lower.litert.bind_weights import bind
from g3n_compiler.lower.litert.dialect import LiteRtDecoder
from g3n_compiler.lower.litert.text import LiteRtOps
from g3n_compiler.lower.signatures.cache import ExternalCache
from g3n_compiler.lower.signatures.text import Prefill, sample_inputs, used_weights
from g3n_compiler.models.gemma3n.decoder import TextDecoder
from g3n_compiler.quantize.recipe import get_recipe
from g3n_compiler.source import Source

SHAPE: dict[str, Any] = {
    "vocab_size": 4352,
    "vocab_size_per_layer_input": 4096,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 10,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "hidden_size_per_layer_input": 128,
    "laurel_rank": 64,
    "sliding_window": 512,
    "num_kv_shared_layers": 5,
    "activation_sparsity_pattern": [0.0] * 10,
}


HEAD = ("altup_unembed", "lm_head")
"""Weights, with the last norm, that only logits need."""


class AllLayers(Prefill):
    """Prefill without the skip: every layer over every token."""

    def run(
        self, decoder: TextDecoder, embeddings: Tensor, ple: Tensor, positions: Tensor, cache: ExternalCache
    ) -> dict[str, Tensor]:
        state = decoder.begin(embeddings, ple, positions)
        for i in range(self.config.num_layers):
            state = decoder.layer(i, state, cache)
        return {"hidden": state.streams}


def lower(checkpoint: Source, module: Prefill, tokens: int, weights: Mapping[str, Any], path: Path) -> int:
    """Convert and bind one signature; returns its count of linear layers."""
    import litert_torch

    inputs = sample_inputs(checkpoint.text, tokens + 1, tokens)
    inputs |= {s.input_name: torch.empty(s.shape) for s in weights.values()}
    program = torch.export.export(module, (), inputs, strict=False)
    linears = Counter(str(n.target) for n in program.graph.nodes if n.op == "call_function")["aten.linear.default"]
    model = litert_torch.signature("prefill", module, sample_kwargs=inputs).convert()
    bind(bytes(model.model_content()), weights, get_recipe("int8"), checkpoint.read, path)
    return linears


def best_time(path: Path, runs: int) -> float:
    interpreter = Interpreter(model_path=str(path), num_threads=2)
    run = interpreter.get_signature_runner("prefill")
    inputs = {n: np.zeros(d["shape"], d["dtype"]) for n, d in run.get_input_details().items()}
    length = inputs["input_pos"].shape[0]
    inputs["input_pos"][:] = np.arange(length)
    run(**inputs)
    return min(seconds_of(lambda: run(**inputs), runs))


@click.command()
@click.option("--tokens", default=1024, show_default=True)
@click.option("--runs", default=3, show_default=True)
def main(tokens: int, runs: int) -> None:
    """Print operator counts, times and their ratio."""
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = save_random(Path(folder), SHAPE)
        skipping = Prefill(checkpoint.text, LiteRtOps(), LiteRtDecoder).eval()
        complete = AllLayers(checkpoint.text, LiteRtOps(), LiteRtDecoder).eval()
        owned = used_weights(skipping, tokens + 1, tokens)
        every = {n: s for n, s in complete.specs.items() if n != "norm" and not n.startswith(HEAD)}
        paths = Path(folder) / "skip.tflite", Path(folder) / "all.tflite"
        counts = [
            lower(checkpoint, skipping, tokens, owned, paths[0]),
            lower(checkpoint, complete, tokens, every, paths[1]),
        ]
        times = [best_time(path, runs) for path in paths]
    config = checkpoint.text
    console.print(f"{config.num_layers} layers, {config.num_kv_layers} own KV; {tokens} tokens, int8, 2 threads")
    console.print(f"linear layers in the graph: {counts[0]} skipping, {counts[1]} with all layers")
    ratio = times[1] / times[0]
    console.print(f"best of {runs}: {times[0]:.3f} s skipping, {times[1]:.3f} s with all, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
