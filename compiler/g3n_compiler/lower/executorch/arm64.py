"""The ExecuTorch runtime for aarch64, emulated: see :mod:`g3n_compiler.lower.arm64_kit`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from g3n_compiler.lower.arm64_kit import UNREADABLE, ArmKit, Outputs, Text, refuse_answers
from g3n_compiler.lower.opened import TextModel
from g3n_runtime.executorch.model import ExecuTorchModel, ExecuTorchParts


def run_on_arm(
    kit: ArmKit,
    program: Path,
    tables: Path,
    entry: str,
    model: TextModel | None,
    texts: Sequence[Text],
    greedy: int,
    scratch: Path,
) -> Outputs:
    """Outputs of the method ``entry``.

    Args:
        model: looks the embedding rows up for a method that takes rows, as an app does on a phone; else ``None``.
    """
    chunk, vocabulary = _limits(ExecuTorchParts(program, tables))
    rows: Path | str = "-"
    if model is not None:
        rows = scratch / "rows.f32"
        ids = range(vocabulary)
        np.concatenate((model.embeddings(ids), model.ple(ids)), -1).astype("<f4").tofile(rows)
    script, logits, tokens = scratch / "script.txt", scratch / "logits.f32", scratch / "tokens.txt"
    lines, counts = [], []
    for g in texts:
        lines += [f"run {position} {token}" for position, token in enumerate(g.ids)]
        prefill = list(_prefill_lines(g.ids[: g.prompt], chunk))
        rest = [f"run {g.prompt + i} {token}" for i, token in enumerate(g.ids[g.prompt :])]
        lines += [*prefill, *rest]
        counts.append((len(g.ids), len(prefill) - 1, len(rest) + 1))
    lines += [*_prefill_lines(texts[0].ids, chunk), f"greedy {greedy}"]
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    libraries = {"LD_LIBRARY_PATH": str(kit.site / "executorch" / "lib")}
    kit.run(kit.executorch_runner, [program, tables, entry, rows, script, logits, tokens], libraries)
    try:
        values = np.fromfile(logits, "<f4").reshape(-1, vocabulary)
        generated = [int(line) for line in tokens.read_text(encoding="utf-8").split()]
        if (expected := sum(sum(count) for count in counts)) > len(values):
            raise ValueError(f"{len(values)} rows, expected {expected}")
    except UNREADABLE as error:
        refuse_answers(logits, error)
    decoded, prefilled, at = [], [], 0
    for length, before, after in counts:
        decoded.append(values[at : at + length])
        at += length + before
        prefilled.append(values[at : at + after])
        at += after
    return Outputs(decoded, prefilled, generated)


def _limits(parts: ExecuTorchParts) -> tuple[int, int]:
    """Longest chunk and vocabulary of the program."""
    model = ExecuTorchModel(parts)
    return model.chunk, model.vocab_size


def _prefill_lines(ids: Sequence[int], chunk: int) -> Iterator[str]:
    for begin in range(0, len(ids), chunk):
        yield f"run {begin} {' '.join(str(token) for token in ids[begin : begin + chunk])}"
