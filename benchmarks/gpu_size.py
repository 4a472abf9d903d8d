"""The decoder of E2B or E4B in the stock engine on the GPU, which loads it only if its delegate takes all of it.

    python benchmarks/gpu_size.py WORK [--size e4b] [--answer]

Needs gcc, ``make gpu-kit`` and no checkpoint: the graph has the layers, the heads and the widths of E2B or E4B, random
int4 weights and nano's small vocabulary. The engine loads it behind ``gpu_meter.py``'s loader, which counts and waits
as long as a driver in software takes. ``--answer`` also lets it continue a prompt by one token.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click
import torch
from gpu_meter import Meter, through_engine
from rich.console import Console
from torch import Tensor

from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.cli.common import quiet_toolchains, reports_errors
from g3n_compiler.lower.isolated import isolated
from g3n_compiler.lower.litert.backend import IN_FLOAT32
from g3n_compiler.lower.litert.bind_weights import bind
from g3n_compiler.lower.litert.container import SectionKind, write_litertlm
from g3n_compiler.lower.litert.context import full_cache_length, usable_context
from g3n_compiler.lower.litert.gpu_operators import require_gpu_operators
from g3n_compiler.lower.litert.metadata import executor_metadata, llm_metadata
from g3n_compiler.lower.litert.tables import write_ple_embedder, write_token_embedder
from g3n_compiler.lower.litert.text import convert
from g3n_compiler.models.gemma3n.published import E2B, E4B
from g3n_compiler.models.gemma3n.text_config import TextConfig, parse_text_config
from g3n_compiler.models.registry import text_weights
from g3n_compiler.models.weights import WeightSpec
from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.quantize.recipe import RECIPES

SIZES = {"e2b": (*E2B, 10), "e4b": (*E4B, 15)}
"""Layers, the width of their FFNs, and how many of them share the KV caches of others."""
CONTEXT, PREFILLS = 1024, (128,)


def shape(size: str) -> TextConfig:
    """The decoder of ``size`` with nano's vocabulary; what is not named here is as published by default."""
    layers, width, shared = SIZES[size]
    return parse_text_config(
        {
            "model_type": "gemma3n_text", "vocab_size": 4352, "vocab_size_per_layer_input": 4096,
            "num_hidden_layers": layers, "intermediate_size": width, "num_kv_shared_layers": shared,
        }
    )  # fmt: skip


def drawn(spec: WeightSpec, rows: tuple[int, int] | None = None) -> Tensor:
    """Some rows of a weight, ``[rows, ...]`` float32: the same few random numbers again and again."""
    begin, end = rows or (0, spec.shape[0])
    row = torch.randn(max(1, spec.shape[-1]), generator=torch.Generator().manual_seed(0)) * spec.shape[-1] ** -0.5
    shift = torch.arange(begin, end)
    if len(spec.shape) == 1:
        return row[shift]
    turned = row[(torch.arange(spec.shape[-1])[None] + shift[:, None]) % spec.shape[-1]]
    return turned.view(end - begin, *[1] * (len(spec.shape) - 2), -1).expand(end - begin, *spec.shape[1:])


def write(size: str, path: Path) -> None:
    """Write a ``.litertlm`` as a compile does, with such weights."""
    config, recipe = shape(size), RECIPES["int4"]
    context = usable_context(config, CONTEXT, PREFILLS)
    positions = full_cache_length(config, context, PREFILLS)
    graph = isolated(convert, config, CONTEXT, PREFILLS, (), positions, 0)
    weights = text_weights(config)
    require_gpu_operators(graph, {spec.input_name for spec in weights.values()}, "the text model")
    tokenizer = load_tokenizer(checkpoint_dir(), config)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        models: dict[SectionKind, Path] = {
            kind: Path(folder) / kind for kind in ("prefill_decode", "embedder", "per_layer_embedder")
        }
        bind(graph, weights, recipe, drawn, models["prefill_decode"])
        write_token_embedder(config, recipe, drawn, models["embedder"])
        write_ple_embedder(config, recipe, drawn, models["per_layer_embedder"])
        llm = llm_metadata(context, tokenizer, tokenizer.template.jinja)
        executor = executor_metadata(config, context)
        write_litertlm(path, models, tokenizer.sentencepiece, llm, executor, in_float32=IN_FLOAT32)


@click.command()
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--size", type=click.Choice(list(SIZES)), default="e2b", show_default=True)
@click.option("--answer", is_flag=True, help="Also continue a prompt: many minutes on a driver in software.")
@reports_errors
def main(work: Path, size: str, answer: bool) -> None:
    """Write a model of SIZE to WORK and load it."""
    console, model = Console(width=160, highlight=False), work / f"{size}-random.litertlm"
    work.mkdir(parents=True, exist_ok=True)
    with quiet_toolchains(), tempfile.TemporaryDirectory(prefix="g3n-meter-") as scratch:
        if not model.exists():
            write(size, partial := model.with_suffix(".partial"))
            partial.rename(model)
        meter = Meter(Path(scratch))
        start = time.monotonic()
        through_engine(console, meter, model, (1,) if answer else ())
        console.print(f"{size}, {model.stat().st_size >> 20:,} MiB: taken whole, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
