"""Make the list of operators that LiteRT's GPU delegate takes, ``lower/litert/gpu_operators.csv``.

    python benchmarks/gpu_operators.py [--write]

Nano's graphs (prefills shorter and longer than the sliding window, decode, the sizes of an elastic bundle and the
signature that verifies drafts, the vision encoder at three resolutions) are converted, given their weights and loaded
on the GPU. Only the operators of models that the delegate takes whole are listed. That the results are right is what a
compile for a GPU target compares. Without ``--write`` the list is compared with the one that is there.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
from rich.console import Console

from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.cli.common import quiet_toolchains, reports_errors
from g3n_compiler.lower.isolated import isolated
from g3n_compiler.lower.litert import flatbuffer
from g3n_compiler.lower.litert.bind_weights import bind
from g3n_compiler.lower.litert.gpu_operators import LIST, Form, forms, write_list
from g3n_compiler.lower.litert.text import convert
from g3n_compiler.lower.litert.vision import convert_encoder
from g3n_compiler.lower.signatures.vision import EncodeImage
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.models.gemma3n.vision_layout import read_layout
from g3n_compiler.models.registry import text_weights
from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.slice.elastic import choose_sizes
from g3n_compiler.source import TEXT, Source

CONTEXT, PREFILL, RECIPE = 1024, (32, 512), "int4"
SIDES = (256, 512, 768)


def load_on_gpu(path: Path) -> None:
    """Load a model on the GPU in this process, which is to be one of its own."""
    from g3n_runtime.litert.gpu import GpuModel
    from g3n_runtime.litert.vulkan import require_driver

    require_driver().use()
    GpuModel(path)


def text_forms(folder: Path, elastic: tuple[str, ...] | None) -> set[Form]:
    """The operators of nano's text graphs."""
    source = Source.open(checkpoint_dir(), modalities=(TEXT,))
    sizes = () if elastic is None else choose_sizes(elastic, source.whole)
    if sizes:
        source = source.divided(sizes[0].config)
    config = gemma3n_config(source.text)
    load_tokenizer(source.directory, config)
    specs = text_weights(config)
    graph, path = convert(config, CONTEXT, PREFILL, sizes[1:]), folder / "text.tflite"
    bind(graph, specs, RECIPES[RECIPE], source.read, path)
    isolated(load_on_gpu, path)
    return _all(graph, {spec.input_name for spec in specs.values()})


def vision_forms(folder: Path) -> set[Form]:
    """The operators of nano's vision encoder, each resolution loaded by itself."""
    source = Source.open(checkpoint_dir())
    assert source.vision is not None
    layout, found = read_layout(source.vision), set[Form]()
    specs = EncodeImage(layout).specs
    for side in SIDES:
        graph, path = convert_encoder(layout, (side,)), folder / f"vision_{side}.tflite"
        bind(graph, specs, RECIPES[RECIPE], source.read, path)
        isolated(load_on_gpu, path)
        found |= _all(graph, {spec.input_name for spec in specs.values()})
    return found


def _all(graph: bytes, weights: set[str]) -> set[Form]:
    return {form for signature in forms(flatbuffer.parse(graph), weights).values() for form in signature}


@click.command()
@click.option("--write", is_flag=True, help="Write the list into the package.")
@reports_errors
def main(write: bool) -> None:
    """Load nano's graphs on the GPU and list their operators."""
    console, found = Console(highlight=False), set[Form]()
    with tempfile.TemporaryDirectory() as scratch, quiet_toolchains():
        for what, make in (
            ("text", lambda folder: text_forms(folder, None)),
            ("elastic text", lambda folder: text_forms(folder, ("full", "half-5-6"))),
            ("vision", vision_forms),
        ):
            new = make(Path(scratch))
            console.print(f"{what}: taken whole, {len(new)} forms, {len(new - found)} of them new")
            found |= new
    if write:
        write_list(found)
        console.print(f"{len(found)} forms written to {LIST.name}")


if __name__ == "__main__":
    main()
