"""A model of the true size on the GPU: a compile that runs each layer there, and the stock engine that loads it whole.

    python benchmarks/gpu_size.py WORK [--size e2b] [--load]

Makes a random checkpoint in WORK with the layers of E2B or E4B and nano's small vocabulary (tables and the head are
looked up and multiplied elsewhere, or as any other matrix), compiles it for ``pixel``, which takes the layers through
the delegate one at a time, and prints what the manifest says of it. ``--load`` then lets the stock engine load the
whole decoder on the GPU, without a prompt, which it refuses unless the delegate takes all of it, and prints the memory
that this took. ``gpu_layers.py`` runs the layers of a model that was compiled already.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
from lab import save_random
from rich.console import Console

from g3n_compiler.models.gemma3n.published import E2B, E4B
from g3n_compiler.nano import checkpoint_dir
from g3n_runtime.measure import watch

SHARED = {"e2b": 10, "e4b": 15}
SIZES = {"e2b": E2B, "e4b": E4B}
LOAD = """
import sys
from pathlib import Path
from g3n_runtime.chat import Placement
from g3n_runtime.litert.engine import LiteRtEngine
LiteRtEngine(Path(sys.argv[1]), placement=Placement("gpu")).close()
"""
MIB = 1 << 20


def shape(size: str) -> dict[str, Any]:
    """The decoder of ``size`` in the words of ``transformers``' configuration."""
    layers, width = SIZES[size]
    kinds = ["full_attention" if i % 5 == 4 else "sliding_attention" for i in range(layers)]
    return {
        "vocab_size": 4352, "vocab_size_per_layer_input": 4096,
        "hidden_size": 2048, "intermediate_size": width, "num_hidden_layers": layers, "layer_types": kinds,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 256, "hidden_size_per_layer_input": 256,
        "laurel_rank": 64, "sliding_window": 512, "num_kv_shared_layers": SHARED[size],
        "max_position_embeddings": 32768,
        "activation_sparsity_pattern": [0.95] * 10 + [0.0] * (layers - 10),
    }  # fmt: skip


@click.command()
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--size", type=click.Choice(list(SIZES)), default="e2b", show_default=True)
@click.option("--load", is_flag=True, help="Also let the engine load the whole decoder on the GPU.")
def main(work: Path, size: str, load: bool) -> None:
    """Compile and load in WORK."""
    console, checkpoint, bundle = Console(width=140, highlight=False), work / f"{size}-random", work / f"{size}-bundle"
    if not checkpoint.exists():
        partial = work / f"{size}-partial"
        save_random(partial, shape(size)).close()
        for name in ("tokenizer.json", "tokenizer.model", "chat_template.jinja"):
            shutil.copy(checkpoint_dir() / name, partial)
        partial.rename(checkpoint)
    command = [
        "g3n-compile",
        "--target",
        "pixel",
        "--require-gpu",
        "--checkpoint",
        str(checkpoint),
        "--modalities",
        "text",
    ]
    start = time.monotonic()
    program = Path(sys.executable).with_name(command[0])
    subprocess.run([program, *command[1:], "--context", "1024", "--out", str(bundle)], check=True)
    console.print(f"compiled in {time.monotonic() - start:.0f} s")
    checks = json.loads((bundle / "manifest.json").read_text("utf-8"))["parity"]["checks"]
    for check in checks:
        if check["name"].startswith("GPU"):
            console.print(f"{check['name']}: {check['value']} of {check['limit']} {check['note']}")
    if load:
        packed = next(bundle.glob("*.litertlm"))
        start = time.monotonic()
        child = subprocess.Popen(
            [sys.executable, "-c", LOAD, str(packed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
        )
        peak = watch(child)
        taken = "taken whole" if child.wait() == 0 else "not loaded"
        console.print(
            f"{packed.stat().st_size // MIB} MiB: {taken} in {time.monotonic() - start:.0f} s, peak "
            f"{peak.total // MIB} MiB, of it {peak.file_backed // MIB} MiB of the file"
        )


if __name__ == "__main__":
    main()
