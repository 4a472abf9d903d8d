"""The stock engine on the GPU against the one on the CPU: the same texts, or where they part and by how little.

    python benchmarks/gpu_answers.py exported/nano-pixel-int4 [--prompts 20] [--tokens 40]

Both engines continue the openings of held-out documents and answer held-out questions, greedily. Where two texts part,
the logits there are computed again by the bundle's graph on the CPU and on the GPU, and by a reference with the
bundle's weights and float32 activations, which the GPU has too; the CPU rounds activations to 8 bits. A difference is
the GPU's fault if the GPU is further from that reference than float32 allows, or if the reference takes another token
by more than that. Ends with 1 if any is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import click
import numpy as np
from lab import require_nano
from rich.console import Console

from g3n_compiler.checkpoint.tokenizer import TextTokenizer, load_tokenizer
from g3n_compiler.cli.common import quiet_toolchains, reports_errors
from g3n_compiler.lower.accelerator import AcceleratorRun
from g3n_compiler.lower.isolated import isolated
from g3n_compiler.lower.litert.gpu import run_on_gpu
from g3n_compiler.lower.litert.opened import OpenedTextModel
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.nano import checkpoint_dir, heldout_path
from g3n_compiler.quantize.saved import recipe_of
from g3n_compiler.source import TEXT, Source
from g3n_compiler.verify.accelerator import NEAR
from g3n_compiler.verify.checks import relative_error
from g3n_compiler.verify.reference import Reference
from g3n_runtime.bundle import open_bundle
from g3n_runtime.chat import GREEDY, Placement
from g3n_runtime.litert.engine import LiteRtEngine

OPENING = 24
"""Tokens of a document that are given."""
Kind = Literal["document", "question"]
USER, MODEL = "<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n"


class Prompt(NamedTuple):
    """A text to be continued as it is, or a user's question."""

    kind: Kind
    text: str


class Parting(NamedTuple):
    """Ids up to where two answers part, the tokens there (the end is a token too), and where the answer began."""

    ids: tuple[int, ...]
    prompt: int
    cpu: int
    gpu: int


def prompts(tokenizer: TextTokenizer, count: int) -> Iterator[Prompt]:
    """The first ``count`` held-out documents that are long enough, and the first ``count`` first questions."""
    lines = [json.loads(line) for line in heldout_path().read_text("utf-8").splitlines()]
    texts = [line["text"] for line in lines if line["kind"].startswith("plain")]
    long = [ids for text in texts if len(ids := tokenizer.encode(text)) > OPENING]
    yield from (Prompt("document", tokenizer.decode(ids[:OPENING])) for ids in long[:count])
    asked = [line["text"].split(MODEL)[0] for line in lines if line["text"].startswith(USER)]
    yield from (Prompt("question", text.removeprefix(USER)) for text in asked[:count])


def answers(packed: Path, placement: Placement, asked: Sequence[Prompt], most: int) -> list[str]:
    """What the stock engine says, in a process of its own where that is on the GPU."""
    with LiteRtEngine(packed, placement=placement) as engine:
        return [
            "".join(
                engine.complete(p.text, GREEDY, most) if p.kind == "document" else engine.generate(p.text, GREEDY, most)
            )
            for p in asked
        ]


def parting(tokenizer: TextTokenizer, prompt: Prompt, cpu: str, gpu: str) -> Parting:
    start = (
        [tokenizer.bos_id, *tokenizer.encode(prompt.text)] if prompt.kind == "document" else tokenizer.chat(prompt.text)
    )
    ends = tokenizer.stop_ids
    said, other = [*tokenizer.encode(cpu), min(ends)], [*tokenizer.encode(gpu), min(ends)]
    same = next(i for i, (a, b) in enumerate(zip(said, other, strict=False)) if a != b)
    return Parting((*start, *said[:same]), len(start), said[same], other[same])


@click.command()
@click.argument("directory", metavar="BUNDLE", type=click.Path(path_type=Path, exists=True))
@click.option("--prompts", "count", default=20, show_default=True, help="Of each kind.")
@click.option("--tokens", default=40, show_default=True, help="Most tokens of an answer.")
@reports_errors
def main(directory: Path, count: int, tokens: int) -> None:
    """Ask BUNDLE, which was compiled from nano, on both devices."""
    bundle, console = open_bundle(directory), Console(width=160, highlight=False)
    require_nano(bundle)
    packed, source = bundle.file("litertlm"), Source.open(checkpoint_dir(), modalities=(TEXT,))
    config = gemma3n_config(source.text)
    tokenizer = load_tokenizer(source.directory, config)
    asked = list(prompts(tokenizer, count))
    with quiet_toolchains():
        on_cpu = answers(packed, Placement("cpu"), asked, tokens)
        on_gpu = isolated(answers, packed, Placement("gpu"), asked, tokens)
    parted = [parting(tokenizer, p, c, g) for p, c, g in zip(asked, on_cpu, on_gpu, strict=True) if c != g]
    for kind in ("document", "question"):
        pairs = [(c, g) for p, c, g in zip(asked, on_cpu, on_gpu, strict=True) if p.kind == kind]
        said = sum(len(tokenizer.encode(c)) for c, _ in pairs)
        console.print(f"{kind}s: {sum(c == g for c, g in pairs)} of {len(pairs)} answers equal, {said} tokens")
    if not parted:
        return
    recipe = recipe_of(bundle.manifest)
    reference = Reference(source, recipe, float_activations=True)
    run = AcceleratorRun(files={"litertlm": packed}, texts=parted, prompts=(), max_new_tokens=0)
    with quiet_toolchains():
        lengths = sorted(
            int(name.removeprefix("prefill_"))
            for name in next(p for p in bundle.manifest["subgraphs"] if p["name"] == "core")["signatures"]
            if name.startswith("prefill_")
        )
        gpu_rows = [rows[-1] for rows in run_on_gpu(packed, config, run, lengths).prefilled]
        model = OpenedTextModel(packed)
        cpu_rows = [model.prefilled_logits(p.ids, p.prompt)[-1] for p in parted]
    want = [reference.logits(p.ids).numpy()[-1] for p in parted]
    faults = 0
    console.print(
        "| tokens in | CPU says | GPU says | CPU's margin | GPU's margin | the reference's | error of CPU / GPU |"
    )
    console.print("|---|---|---|---|---|---|---|")
    for at, cpu, gpu, exact in zip(parted, cpu_rows, gpu_rows, want, strict=True):
        errors = [relative_error(rows, exact) for rows in (cpu, gpu)]
        margins = [float(rows[at.gpu] - rows[at.cpu]) for rows in (cpu, gpu, exact)]
        faults += errors[1] > NEAR or margins[2] < -2 * NEAR * float(np.abs(exact).max())
        words = [json.dumps(tokenizer.decode([token]), ensure_ascii=False) for token in (at.cpu, at.gpu)]
        console.print(
            f"| {len(at.ids) - at.prompt} | {' | '.join(words)} | {' | '.join(f'{m:+.4f}' for m in margins)} | "
            f"{errors[0]:.1e} / {errors[1]:.1e} |",
            markup=False,
        )
    console.print(
        "A margin is the logit of the GPU's token less that of the CPU's; errors are relative to the reference."
    )
    if faults:
        console.print(f"{faults} are the GPU's fault")
        sys.exit(1)


if __name__ == "__main__":
    main()
