"""What a large per-layer embedding adds to resident memory: 64 tokens from a bundle with a small and a large table.

    python benchmarks/ple_resident.py [--rows 65536]

Two random checkpoints differ in the rows of their PLE alone (true row width, 7680 values); the difference of resident
memory after generating is what the large table costs. Each run is a fresh process without the right to lock memory,
as an app on a phone has it: ExecuTorch locks what it maps where it may.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from lab import resident_bytes, save_random
from rich.console import Console

from g3n_compiler.bundle.manifest import template_fields
from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.lower.job import Job
from g3n_compiler.lower.registry import BACKENDS, get_backend
from g3n_compiler.lower.subgraphs import Runtime
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.quantize.recipe import get_recipe
from g3n_compiler.source import Source
from g3n_compiler.targets import get_target
from g3n_runtime.bundle import Bundle
from g3n_runtime.chat import GREEDY
from g3n_runtime.engines import open_engine

LAYERS, PLE_DIM = 6, 1280
"""7680 values a row, as in E2B, in few layers."""
SMALL_ROWS = 4096
TOKENS = 64
WAYS = ("litert", "executorch", "executorch, our loop")


SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": LAYERS,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_size_per_layer_input": PLE_DIM,
    "laurel_rank": 16,
    "sliding_window": 64,
    "num_kv_shared_layers": 3,
    "max_position_embeddings": 512,
    "activation_sparsity_pattern": [0.0] * LAYERS,
}


def make_checkpoint(directory: Path, rows: int, vocab: int) -> Source:
    """A random checkpoint of ``vocab`` tokens whose PLE has ``rows`` rows, with nano's tokenizer."""
    sizes = {"vocab_size": vocab, "vocab_size_per_layer_input": rows}
    source = save_random(directory, SHAPE | sizes)
    for name in ("tokenizer.json", "tokenizer.model", "chat_template.jinja"):
        shutil.copy(checkpoint_dir() / name, directory)
    return source


def lower(source: Source, runtime: Runtime, directory: Path) -> None:
    """Lower without the comparisons, which this measures nothing of."""
    directory.mkdir()
    job = Job(
        source=source,
        tokenizer=load_tokenizer(source.directory, gemma3n_config(source.text)),
        recipe=get_recipe("int8"),
        target=get_target("host"),
        context=256,
        prefill_lengths=(32,),
        directory=directory,
        progress=lambda line: None,
    )
    files = [{"path": f.path, "role": f.role} for f in get_backend(runtime).lower(job).files]
    manifest = {
        "model": {"modalities": ["text"]},
        "files": files,
        "subgraphs": [{"runtime": runtime}],
        "template": template_fields(load_tokenizer(source.directory, gemma3n_config(source.text))),
    }
    (directory / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")


def generate(directory: Path, way: str) -> int:
    """Generate, then return this process's resident bytes."""
    bundle = Bundle(directory, json.loads((directory / "bundle.json").read_text(encoding="utf-8")))
    tokens = 0
    if way == WAYS[2]:
        from g3n_runtime.executorch.model import ExecuTorchModel, ExecuTorchParts
        from g3n_runtime.executorch.roles import ROLES

        parts = ExecuTorchParts(bundle.file(ROLES["model"]), bundle.file(ROLES["tables"]))
        engine: Any = ExecuTorchModel(parts)
        tokens = len(engine.greedy(list(range(2, 34)), TOKENS))
    else:
        engine = open_engine(bundle, way)
        tokens = sum(1 for _ in engine.send("What is a river?", GREEDY, TOKENS))
    if tokens < TOKENS // 2:
        raise SystemExit(f"only {tokens} of {TOKENS} tokens came")
    return sum(nbytes for name, nbytes in resident_bytes().items() if name.startswith("Rss"))


def in_fresh_process(directory: Path, way: str) -> int:
    command = [sys.executable, __file__, "--child", str(directory), "--way", way]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock", "--", *command]
    limited = f"ulimit -l 64; exec {shlex.join(command)}"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise click.ClickException(f"{way} failed ({done.returncode}): {done.stderr[-2000:]}")
    return int(done.stdout.strip().splitlines()[-1])


@click.command()
@click.option("--rows", default=65536, show_default=True, help="Rows of the large table.")
@click.option("--runtime", "runtimes", multiple=True, type=click.Choice(list(BACKENDS)), default=list(BACKENDS))
@click.option("--child", type=click.Path(path_type=Path), hidden=True)
@click.option("--way", hidden=True)
def main(rows: int, runtimes: tuple[Runtime, ...], child: Path | None, way: str | None) -> None:
    """Print resident memory by engine and table."""
    if child is not None and way is not None:
        click.echo(generate(child, way))
        return
    console = Console(width=100)
    with tempfile.TemporaryDirectory() as folder:
        for count in (SMALL_ROWS, rows):
            checkpoint = make_checkpoint(Path(folder) / f"checkpoint-{count}", count, max(rows, 4352))
            for runtime in runtimes:
                lower(checkpoint, runtime, Path(folder) / f"{runtime}-{count}")
        size = rows * LAYERS * PLE_DIM
        console.print(f"PLE of {size / 1e6:.0f} MB (int8) against {SMALL_ROWS * LAYERS * PLE_DIM / 1e6:.0f} MB\n")
        console.print("| way | small table | large table | difference |\n|---|---|---|---|")
        for each in WAYS:
            runtime = each.split(",")[0]
            if runtime not in runtimes:
                continue
            small, large = (in_fresh_process(Path(folder) / f"{runtime}-{n}", each) for n in (SMALL_ROWS, rows))
            console.print(f"| {each} | {small / 1e6:.0f} MB | {large / 1e6:.0f} MB | {(large - small) / 1e6:.1f} MB |")


if __name__ == "__main__":
    main()
