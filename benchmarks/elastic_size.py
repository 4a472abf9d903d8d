"""An elastic bundle beside plain ones of the same checkpoint: bytes, resident memory and speed of each size.

    python benchmarks/elastic_size.py lower CHECKPOINT WORK --sizes e2b,e4b    # writes WORK/elastic, WORK/e2b, WORK/e4b
    python benchmarks/elastic_size.py measure WORK                             # prints the table

Made for random weights of the true size, so nothing is compared with the reference here; that is ``g3n-compile``'s
business. Every run is a fresh process that prefills and decodes through the same loop. The first one of a model writes
the delegate's weight cache and is not shown.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from lab import resident_bytes
from rich.console import Console

from g3n_runtime.litert.elastic import ElasticModel, ElasticText
from g3n_runtime.litert.elastic_names import ELASTIC_VIEW
from g3n_runtime.litert.model import LiteRtParts

ELASTIC, MODEL = "elastic", "model.litertlm"
SIZES = "sizes.json"
KINDS = ("embedder", "per_layer_embedder")
GIB = 1 << 30


@click.group()
def main() -> None:
    """See the module's docstring."""


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--sizes", default="e2b,e4b", show_default=True)
@click.option("--quant", default="int4", show_default=True)
@click.option("--context", default=1024, show_default=True)
@click.option("--prefill", default=128, show_default=True)
def lower(checkpoint: Path, work: Path, sizes: str, quant: str, context: int, prefill: int) -> None:
    """Write the elastic bundle and a plain one of each size."""
    # Not at the top: the runs are to be measured without the compiler and its toolchains in their memory.
    from g3n_compiler.checkpoint.tokenizer import load_tokenizer
    from g3n_compiler.cli.common import quiet_toolchains
    from g3n_compiler.lower.job import Job
    from g3n_compiler.lower.litert.backend import LiteRtBackend
    from g3n_compiler.models.gemma3n.text_config import gemma3n_config
    from g3n_compiler.quantize.recipe import get_recipe
    from g3n_compiler.slice.elastic import choose_sizes
    from g3n_compiler.source import TEXT, Source
    from g3n_compiler.targets import get_target

    console = Console()
    whole = Source.open(checkpoint, modalities=(TEXT,))
    chosen = choose_sizes(sizes.split(","), whole.text)
    source = whole.divided(chosen[0].config)
    job = Job(
        source=source,
        tokenizer=load_tokenizer(checkpoint, gemma3n_config(source.text)),
        recipe=get_recipe(quant),
        target=get_target("host"),
        context=context,
        prefill_lengths=(prefill,),
        directory=work,
        progress=lambda line: console.print(line),
    )
    jobs = {ELASTIC: replace(job, sizes=chosen[1:])}
    for size in chosen:
        jobs[size.name] = replace(job, source=whole.sliced(size.plan, size.config.whole))
    work.mkdir(parents=True, exist_ok=True)
    (work / SIZES).write_text(json.dumps([size.name for size in chosen]), encoding="utf-8")
    for name, wanted in jobs.items():
        folder = work / name
        if (folder / MODEL).exists():
            continue
        folder.mkdir(exist_ok=True)
        console.rule(name)
        with quiet_toolchains():
            LiteRtBackend().lower(replace(wanted, directory=folder))
        shutil.rmtree(folder / ".steps")


@main.command()
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--prompt-tokens", default=128, show_default=True)
@click.option("--decode-tokens", default=32, show_default=True)
@click.option("--threads", default=2, show_default=True)
def measure(work: Path, prompt_tokens: int, decode_tokens: int, threads: int) -> None:
    """Print the table of what ``lower`` wrote."""
    console = Console(width=140)
    sizes = json.loads((work / SIZES).read_text(encoding="utf-8"))
    sums = {name: (work / name / MODEL).stat().st_size for name in (ELASTIC, *sizes)}
    overhead = sums[ELASTIC] / sums[sizes[0]] - 1
    console.print(f"{prompt_tokens} tokens prefilled, {decode_tokens} decoded, {threads} threads")
    console.print(f"elastic file against {sizes[0]} alone: {100 * overhead:+.2f}%\n")
    console.print(
        "| bundle | size | file GB | load s | anonymous GiB | file-backed GiB | prefill tok/s | decode tok/s |"
    )
    console.print("|---|---|---|---|---|---|---|---|")
    for bundle in (ELASTIC, *sizes):
        _copy_out(work / bundle)
        own = sizes if bundle == ELASTIC else [bundle]
        runs = [[size] for size in own] + ([own] if len(own) > 1 else [])
        _child(work / bundle, own, own[:1], 2, 2, threads)
        for used in runs:
            r = _child(work / bundle, own, used, prompt_tokens, decode_tokens, threads)
            speeds = [" / ".join(f"{r[kind][size]:.1f}" for size in used) for kind in ("prefill", "decode")]
            console.print(
                f"| {bundle} | {' then '.join(used)} | {sums[bundle] / 1e9:.3f} | {r['load']:.1f} | "
                f"{r['RssAnon'] / GIB:.2f} | {r['RssFile'] / GIB:.2f} | {' | '.join(speeds)} |"
            )


@main.command(hidden=True)
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("sizes")
@click.argument("used")
@click.argument("prompt_tokens", type=int)
@click.argument("decode_tokens", type=int)
@click.argument("threads", type=int)
def run(folder: Path, sizes: str, used: str, prompt_tokens: int, decode_tokens: int, threads: int) -> None:
    """One run in this process; prints a line of JSON."""
    decoder, embedder, per_layer = (folder / f"{name}.tflite" for name in ("decoder", *KINDS))
    start = time.perf_counter()
    model = ElasticModel(
        LiteRtParts(decoder, embedder, per_layer), sizes.split(","), threads, folder / "weights.xnnpack"
    )
    result: dict[str, Any] = {"load": time.perf_counter() - start, "prefill": {}, "decode": {}}
    text = ElasticText(model)
    ids = [2 + 7 * i % 1000 for i in range(prompt_tokens)]
    for size in used.split(","):
        start = time.perf_counter()
        text.prefill(ids, size)
        middle = time.perf_counter()
        for token in ids[:decode_tokens]:
            text.decode(token, size)
        end = time.perf_counter()
        result["prefill"][size], result["decode"][size] = (
            prompt_tokens / (middle - start),
            decode_tokens / (end - middle),
        )
    click.echo(json.dumps(result | resident_bytes()))


def _child(
    folder: Path, sizes: list[str], used: list[str], prompt_tokens: int, decode_tokens: int, threads: int
) -> dict[str, Any]:
    numbers = [str(n) for n in (prompt_tokens, decode_tokens, threads)]
    words = [sys.executable, __file__, "run", str(folder), ",".join(sizes), ",".join(used), *numbers]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(done.stderr.strip()[-500:])
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _copy_out(folder: Path) -> None:
    """The models of a bundle as files, which LiteRT's Python interface wants."""
    from g3n_compiler.lower.litert.container import extract, find_section

    kind = ELASTIC_VIEW if folder.name == ELASTIC else "prefill_decode"
    for name, section in (("decoder", kind), *((k, k) for k in KINDS)):
        path, found = folder / f"{name}.tflite", find_section(folder / MODEL, section)
        if not path.exists() or path.stat().st_size != found.end - found.begin:
            extract(folder / MODEL, section, path)


if __name__ == "__main__":
    main()
