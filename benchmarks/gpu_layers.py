"""A model of the true size on LiteRT's GPU delegate, a layer at a time, with what each layer is off by and takes.

    python benchmarks/gpu_layers.py CHECKPOINT BUNDLE [--one-of-each] [--decode-only] [--skip-head]

BUNDLE was compiled from CHECKPOINT. Each layer of prefill and of decode is cut out of it and must be taken whole by the
delegate. What it computes of a chat prompt and the tokens after it is compared with a reference of the same weights and
float32 activations, as the delegate has, on the layer's own inputs. ``--one-of-each`` does what a compile does: one
layer of each kind, and the CPU runs the others. A line is printed as soon as its layer is done, with the seconds of
each call and this process's memory, of which the GPU's is a part where the driver is software.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import click
import numpy as np
import torch
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
from g3n_compiler.quantize.saved import recipe_of
from g3n_compiler.source import TEXT, Source
from g3n_compiler.verify.accelerator import NEAR, one_of_each_kind
from g3n_compiler.verify.checks import position_errors
from g3n_compiler.verify.golden import golden_inputs
from g3n_compiler.verify.reference import Reference
from g3n_runtime.bundle import open_bundle
from g3n_runtime.litert.model import LiteRtTables
from g3n_runtime.litert.vulkan import require_driver

MIB = 1 << 20


@torch.no_grad()
def layers(
    reference: Reference,
    produced: Iterator[np.ndarray],
    rows: np.ndarray,
    ple: np.ndarray,
    prompt: int,
    only: Collection[int],
) -> Iterator[tuple[str, float, float]]:
    """Name, worst and median error of each layer of ``only`` and of the head, as they are computed."""
    decoder, config = reference.decoder, reference.config
    state = decoder.begin(torch.from_numpy(rows)[None], torch.from_numpy(ple)[None], torch.arange(len(rows)))
    cache = EagerCache(config)
    for layer in range(config.num_layers):
        streams = next(produced)
        if layer in only:
            kept = slice(prompt - 1, None) if layer == config.num_kv_layers - 1 else None
            state = decoder.layer(layer, state, cache, kept)
            flat = torch.cat(state.streams).transpose(0, 1).numpy().reshape(-1, config.hidden_size)
            errors = position_errors(streams.reshape(-1, config.hidden_size), flat)
            yield f"layer {layer}", float(errors.max()), float(np.median(errors))
        state = state._replace(streams=tuple(torch.from_numpy(streams[None, :, a]) for a in range(streams.shape[1])))
    errors = position_errors(next(produced), decoder.logits(state.streams)[0].numpy())
    yield "head", float(errors.max()), float(np.median(errors))


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.argument("directory", metavar="BUNDLE", type=click.Path(path_type=Path, exists=True))
@click.option("--one-of-each", is_flag=True, help="One layer of each kind instead of all.")
@click.option("--decode-only", is_flag=True, help="Three tokens through decode, none through prefill.")
@click.option("--skip-head", is_flag=True, help="Leave the head out: of a whole vocabulary it takes several gigabytes.")
@reports_errors
def main(checkpoint: Path, directory: Path, one_of_each: bool, decode_only: bool, skip_head: bool) -> None:
    """Run the layers of BUNDLE."""
    console, source = Console(width=140, highlight=False), Source.open(checkpoint, modalities=(TEXT,))
    bundle, config = open_bundle(directory), gemma3n_config(source.text)
    model, manifest = bundle.file("litertlm"), bundle.manifest
    if manifest["recipe"].get("rewritten", False):
        source = source.rewritten()
    golden = golden_inputs(load_tokenizer(source.directory, config), config, manifest["context"])[0]
    ids, prompt = (golden.ids[:3], 1) if decode_only else (golden.ids, golden.prompt)
    only = one_of_each_kind(config) if one_of_each else range(config.num_layers)
    reference = Reference(source, recipe_of(manifest), float_activations=True)
    require_driver().use()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="g3n-gpu-layers-") as folder, quiet_toolchains():
        parts = [Path(folder) / f"{kind}.tflite" for kind in SECTIONS.values()]
        for kind, part in zip(SECTIONS.values(), parts, strict=True):
            extract(model, kind, part)
        tables = LiteRtTables(*parts[1:])
        rows, ple = tables.embeddings(ids), tables.ple(ids)
        calls: list[float] = []
        decoder = LayeredDecoder(
            parts[0], config, opener=lambda path, inputs: TimedPart(path, inputs, calls), only=only
        )
        produced = decoder.run(rows, ple, prompt)
        start = time.monotonic()
        for name, worst, median in layers(reference, produced, rows, ple, prompt, only):
            resident, seconds = resident_bytes(), time.monotonic() - start
            failed += worst > NEAR
            each = ", ".join(f"{call:.1f}" for call in calls)
            console.print(
                f"{name}: taken whole, off by {worst:.1e} (median {median:.1e}), {seconds:.0f} s, calls of {each} s; "
                f"memory {resident['RssAnon'] // MIB} MiB anonymous, at most {resident['VmHWM'] // MIB} in all"
            )
            calls.clear()
            start = time.monotonic()
            if skip_head and name == f"layer {config.num_layers - 1}":
                break
    if failed:
        console.print(f"{failed} are off by more than {NEAR}")
        sys.exit(1)


class TimedPart(GpuPart):
    """Adds the seconds of each call to ``calls``."""

    def __init__(self, path: Path, inputs: Sequence[str], calls: list[float]) -> None:
        super().__init__(path, inputs)
        self._calls = calls

    def __call__(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        start = time.monotonic()
        result = super().__call__(values)
        self._calls.append(time.monotonic() - start)
        return result


if __name__ == "__main__":
    main()
