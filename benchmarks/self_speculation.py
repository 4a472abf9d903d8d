"""Self-speculative decoding of an elastic bundle of nano on real text: equality, acceptance and speed-up.

    python benchmarks/self_speculation.py exported/nano-elastic-host-int4 [--prompts 50] [--tokens 64]

Each held-out question is answered greedily three ways from the same caches' beginning: by the largest size alone, by
the smaller size alone, and by the largest with the smaller one's drafts. Times are of decoding only.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from rich.console import Console

from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.cli.common import quiet_toolchains, reports_errors
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.nano import checkpoint_dir, heldout_path
from g3n_compiler.source import Source
from g3n_runtime.bundle import open_bundle
from g3n_runtime.litert.elastic import ElasticModel, ElasticText, open_elastic
from g3n_runtime.litert.speculation import Acceptance, SpeculativeDecoder

TIE = 1e-3
"""Relative distance of two logits that one call for several tokens, which adds up in another order, may decide anew."""


class Answer(NamedTuple):
    """Tokens, the seconds that they took, and by how much each was the best, relative to the largest magnitude."""

    tokens: list[int]
    seconds: float
    margins: tuple[float, ...] = ()


def prompts(count: int) -> Iterator[list[int]]:
    """Ids of the first ``count`` held-out questions, up to where the model's turn begins."""
    tokenizer = load_tokenizer(checkpoint_dir(), gemma3n_config(Source.open(checkpoint_dir()).text))
    for line in heldout_path().read_text(encoding="utf-8").splitlines():
        head, turn, _ = json.loads(line)["text"].partition("<start_of_turn>model\n")
        if turn and count:
            count -= 1
            yield [tokenizer.bos_id, *tokenizer.encode(head + turn)]


def alone(model: ElasticModel, ids: list[int], count: int, size: str) -> Answer:
    text = ElasticText(model)
    text.prefill(ids[:-1], model.sizes[0])
    start = time.perf_counter()
    token, out, rows = ids[-1], [], []
    for _ in range(count):
        logits = text.decode(token, size)
        token = int(logits.argmax())
        out.append(token)
        rows.append(logits)
    seconds = time.perf_counter() - start
    best = np.sort(np.stack(rows), -1)[:, -2:]
    return Answer(out, seconds, tuple((best[:, 1] - best[:, 0]) / np.abs(rows).max(-1)))


def drafted(
    model: ElasticModel, ids: list[int], count: int, size: str, length: int | None
) -> tuple[Answer, Acceptance]:
    text = ElasticText(model)
    text.prefill(ids[:-1], model.sizes[0])
    decoder = SpeculativeDecoder(text, size, length)
    start = time.perf_counter()
    out = list(decoder.generate(ids[-1], count))
    return Answer(out, time.perf_counter() - start), decoder.acceptance


def first_difference(got: list[int], wanted: list[int]) -> int | None:
    return next((i for i, (a, b) in enumerate(zip(got, wanted, strict=True)) if a != b), None)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--draft", help="Size that drafts [default: the bundle's last].")
@click.option("--prompts", "count", default=50, show_default=True)
@click.option("--tokens", default=64, show_default=True, help="Tokens of each answer, stop tokens or not.")
@click.option("--threads", default=2, show_default=True)
@reports_errors
def main(bundle: Path, draft: str | None, count: int, tokens: int, threads: int) -> None:
    """Print the table for BUNDLE; fails if a token differs that was no tie."""
    console = Console(width=120)
    with quiet_toolchains():
        model = open_elastic(open_bundle(bundle), threads)
        largest, size = model.sizes[0], draft or model.sizes[-1]
        questions = list(prompts(count))
        alone(model, questions[0], 8, largest), drafted(model, questions[0], 8, size, None)
        lengths = range(1, model.verify_length)
        large, small = [], []
        runs: dict[int, list[tuple[Answer, Acceptance]]] = {length: [] for length in lengths}
        # In turn for each question, so that all ways meet the machine in the same moods.
        for ids in questions:
            large.append(alone(model, ids, tokens, largest))
            small.append(alone(model, ids, tokens, size))
            for length in lengths:
                runs[length].append(drafted(model, ids, tokens, size, length))
        console.print(
            f"{len(questions)} prompts, {tokens} tokens each, {threads} threads, {size} drafts for {largest}\n"
        )
        console.print("| drafted at a time | equal | accepted | tokens a call | tok/s | against the largest alone |")
        console.print("|---|---|---|---|---|---|")
        rate = tokens * len(questions) / sum(a.seconds for a in large)
        small_rate = tokens * len(questions) / sum(a.seconds for a in small)
        console.print(f"| none: {largest} alone | | | 1 | {rate:.0f} | |")
        console.print(f"| none: {size} alone | | | 1 | {small_rate:.0f} | {small_rate / rate:.2f} |")
        differences: list[str] = []
        worst = 0.0
        for length in lengths:
            pairs = [(a.tokens, b) for (a, _), b in zip(runs[length], large, strict=True)]
            same = sum(got == wanted.tokens for got, wanted in pairs)
            for number, (got, wanted) in enumerate(pairs):
                if (at := first_difference(got, wanted.tokens)) is not None:
                    worst = max(worst, wanted.margins[at])
                    differences.append(f"{length} drafted, prompt {number}, token {at}: {wanted.margins[at]:.1e}")
            total = Acceptance(*(sum(getattr(f, n) for _, f in runs[length]) for n in Acceptance.__dataclass_fields__))
            speed = total.tokens / sum(a.seconds for a, _ in runs[length])
            console.print(
                f"| {length} | {same} of {len(questions)} | {100 * total.rate:.1f}% | "
                f"{total.tokens / total.verifications:.2f} | {speed:.0f} | {speed / rate:.2f} |"
            )
    for line in differences:
        console.print(f"differs from the largest size's own, which had the token by a relative margin of: {line}")
    if worst > TIE:
        raise SystemExit(f"an answer differs where the margin was {worst:.1e}, over {TIE:g}")


if __name__ == "__main__":
    main()
