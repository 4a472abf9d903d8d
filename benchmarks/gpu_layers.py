"""A model of the true size on LiteRT's GPU delegate, a layer at a time, with what each layer is off by and takes.

    python benchmarks/gpu_layers.py CHECKPOINT MODEL.litertlm [--context 1024] [--decode-only] [--skip-head]

MODEL was compiled from CHECKPOINT for a target with a GPU. Each layer of prefill and of decode is cut out of it and
must be taken whole by the delegate. What it computes of a chat prompt and the tokens after it is compared with a
reference of the same weights and float32 activations, as the delegate has, on the layer's own inputs. A line is printed
as soon as its layer is done, with this process's memory, of which the GPU's is a part where the driver is software.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from lab import resident_bytes
from rich.console import Console

from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.cli.common import quiet_toolchains, reports_errors
from g3n_compiler.lower.litert.container import extract
from g3n_compiler.lower.litert.gpu import GpuPart
from g3n_compiler.lower.litert.layers import LayeredDecoder
from g3n_compiler.lower.litert.opened import SECTIONS
from g3n_compiler.models.eager_cache import EagerCache
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.models.registry import text_weights
from g3n_compiler.models.weights import linear_by_rows
from g3n_compiler.quantize.fake import FakeQuantWeights
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.source import TEXT, Source
from g3n_compiler.verify.accelerator import NEAR
from g3n_compiler.verify.checks import position_errors
from g3n_compiler.verify.golden import golden_inputs
from g3n_compiler.verify.reference import Reference
from g3n_runtime.litert.model import LiteRtTables
from g3n_runtime.litert.vulkan import require_driver

MIB = 1 << 20


class FloatActivations(FakeQuantWeights):
    """A recipe's weights for activations that are not rounded; read by rows."""

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        if self._recipe.scheme(self._specs[name]).bits == 32:
            return F.linear(x, self.tensor(name))
        return linear_by_rows(x, self._specs[name], self._read_rounded)


@torch.no_grad()
def layers(
    reference: Reference, produced: Iterator[np.ndarray], rows: np.ndarray, ple: np.ndarray, prompt: int
) -> Iterator[tuple[str, float, float]]:
    """Name, worst and median error of each layer and of the head, as they are computed."""
    decoder, config = reference.decoder, reference.config
    state = decoder.begin(torch.from_numpy(rows)[None], torch.from_numpy(ple)[None], torch.arange(len(rows)))
    cache = EagerCache(config)
    for layer in range(config.num_layers):
        kept = slice(prompt - 1, None) if layer == config.num_kv_layers - 1 else None
        want = decoder.layer(layer, state, cache, kept)
        streams = next(produced)
        flat = torch.cat(want.streams).transpose(0, 1).numpy().reshape(-1, config.hidden_size)
        errors = position_errors(streams.reshape(-1, config.hidden_size), flat)
        yield f"layer {layer}", float(errors.max()), float(np.median(errors))
        state = want._replace(streams=tuple(torch.from_numpy(streams[None, :, a]) for a in range(streams.shape[1])))
    errors = position_errors(next(produced), decoder.logits(state.streams)[0].numpy())
    yield "head", float(errors.max()), float(np.median(errors))


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.option("--recipe", default="int4", show_default=True)
@click.option("--context", default=1024, show_default=True, help="That MODEL was compiled for.")
@click.option(
    "--decode-only", is_flag=True, help="Three tokens through decode: a prefill takes a slow machine too long."
)
@click.option("--skip-head", is_flag=True, help="Leave the head out: of a whole vocabulary it takes several gigabytes.")
@reports_errors
def main(checkpoint: Path, model: Path, recipe: str, context: int, decode_only: bool, skip_head: bool) -> None:
    """Run the layers of MODEL."""
    console, source = Console(width=140, highlight=False), Source.open(checkpoint, modalities=(TEXT,))
    config = gemma3n_config(source.text)
    golden = golden_inputs(load_tokenizer(source.directory, config), config, context)[0]
    ids, prompt = (golden.ids[:3], 1) if decode_only else (golden.ids, golden.prompt)
    reference = Reference(source, RECIPES[recipe])
    weights = FloatActivations(source.read, text_weights(config), RECIPES[recipe], keep=False)
    reference.decoder = source.family.decoder(config, weights)
    require_driver().use()
    failed = 0
    with tempfile.TemporaryDirectory(dir=model.parent, prefix=".gpu-layers-") as folder, quiet_toolchains():
        parts = [Path(folder) / f"{kind}.tflite" for kind in SECTIONS.values()]
        for kind, part in zip(SECTIONS.values(), parts, strict=True):
            extract(model, kind, part)
        tables = LiteRtTables(*parts[1:])
        rows, ple = tables.embeddings(ids), tables.ple(ids)
        opened: list[float] = []
        decoder = LayeredDecoder(parts[0], config, opener=lambda path, inputs: _open(path, inputs, opened))
        produced = decoder.run(rows, ple, prompt)
        start = time.monotonic()
        for name, worst, median in layers(reference, produced, rows, ple, prompt):
            resident, seconds = resident_bytes(), time.monotonic() - start
            failed += worst > NEAR
            console.print(
                f"{name}: taken whole {len(opened)} times, off by {worst:.1e} (median {median:.1e}), {seconds:.0f} s, "
                f"memory {resident['RssAnon'] // MIB} MiB anonymous, at most {resident['VmHWM'] // MIB} in all"
            )
            opened.clear()
            start = time.monotonic()
            if skip_head and name == f"layer {config.num_layers - 1}":
                break
    if failed:
        console.print(f"{failed} are off by more than {NEAR}")
        sys.exit(1)


def _open(path: Path, inputs: Sequence[str], opened: list[float]) -> GpuPart:
    part = GpuPart(path, inputs)
    opened.append(time.monotonic())
    return part


if __name__ == "__main__":
    main()
