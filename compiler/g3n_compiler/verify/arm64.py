"""Parity on Arm: a bundle's subgraphs in the official aarch64 runtimes, emulated, against the same bundle here.

Logits of a rounded model that can be held whole are compared with the recipe's reference instead.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from g3n_compiler.lower.arm64_kit import ArmKit, ArmRun, Outputs
from g3n_compiler.lower.backend import Backend
from g3n_compiler.lower.job import Job
from g3n_compiler.lower.opened import TextModel
from g3n_compiler.lower.subgraphs import Runtime, Subgraph
from g3n_compiler.verify.checks import EXACT, MARGIN, Check, Parity, greedy_margin, relative_error
from g3n_compiler.verify.golden import GENERATED, Golden, golden_inputs
from g3n_compiler.verify.reference import Reference, is_small
from g3n_runtime.bundle import Bundle

REFERENCE = "the same file on this machine"


def verify_arm64(job: Job, bundle: Bundle, backends: Mapping[Runtime, Backend], kit: ArmKit) -> Parity:
    """Compare every subgraph of ``bundle`` on aarch64 with the same one here; returns all results, passed or failed."""
    parity = Parity()
    golden = golden_inputs(job.tokenizer, job.config, job.context)
    rows = _table_ids(job)
    wanted = _reference_logits(job, golden)
    with tempfile.TemporaryDirectory(prefix="g3n-arm64-") as scratch:
        for runtime, backend in backends.items():
            for entry, model in backend.open_models(bundle.paths):
                job.progress(f"{runtime} {entry}: this machine")
                here = _run_here(model, golden, rows)
                job.progress(f"{runtime} {entry}: aarch64, emulated")
                there = backend.run_on_arm(
                    ArmRun(
                        kit=kit,
                        bundle=bundle,
                        entry=entry,
                        model=model,
                        texts=golden,
                        greedy=GENERATED,
                        rows=rows,
                        scratch=Path(scratch),
                    )
                )
                parity.checks += _checks(job, runtime, entry, golden, here, there, model, wanted)
    return parity


def _reference_logits(job: Job, golden: Sequence[Golden]) -> list[np.ndarray] | None:
    """What the recipe's reference computes; ``None`` in float32, and for a model too large to be held whole.

    Activations are quantised on the fly, and other vector units round some of them the other way. Neither machine is
    right, so both are held against the reference.
    """
    if job.recipe.name == "fp32" or not is_small(job.source):
        return None
    job.progress("running the reference")
    reference = Reference(job.source, job.recipe)
    return [reference.logits(g.ids).numpy() for g in golden]


def _table_ids(job: Job) -> list[int]:
    """Ids at both ends of the vocabulary and on either side of the per-layer table's end."""
    c = job.config
    return sorted({0, 1, c.bos_id, c.ple_vocab_size - 1, min(c.ple_vocab_size, c.vocab_size - 1), c.vocab_size - 1})


def _run_here(model: TextModel, golden: Sequence[Golden], rows: Sequence[int]) -> Outputs:
    return Outputs(
        [model.logits(g.ids) for g in golden],
        [model.prefilled_logits(g.ids, g.prompt) for g in golden],
        model.greedy(golden[0].ids, GENERATED),
        model.embeddings(rows),
        model.ple(rows),
    )


def _checks(
    job: Job,
    runtime: Runtime,
    entry: str,
    golden: Sequence[Golden],
    here: Outputs,
    there: Outputs,
    model: TextModel,
    wanted: Sequence[np.ndarray] | None = None,
) -> Iterator[Check]:
    exact = job.recipe.name == "fp32"
    limit = EXACT if exact else job.recipe.logit_tolerance

    def check(
        what: str, subgraph: Subgraph, metric: str, value: float, most: float, note: str = "", to: str = REFERENCE
    ) -> Check:
        return Check(f"{entry}: {what}", subgraph, runtime, to, metric, value, most, note)

    errors = []
    for i, g in enumerate(golden):
        errors.append(relative_error(there.logits[i], here.logits[i]))
        pairs = (
            (f"{len(g.ids)} tokens decoded, {g.name}", here.logits[i], there.logits[i], 0),
            (f"{g.prompt} tokens prefilled, {g.name}", here.prefilled[i], there.prefilled[i], g.prompt - 1),
        )
        for what, ours, theirs, begin in pairs:
            if wanted is None:
                yield check(what, "core", "relative error", relative_error(theirs, ours), limit)
                continue
            note = f"this machine: {relative_error(ours, wanted[i][begin:]):.2g}"
            error = relative_error(theirs, wanted[i][begin:])
            yield check(what, "core", "relative error", error, limit, note, f"fake-quant {job.recipe.name}")
    same = sum(a == b for a, b in zip(here.greedy, there.greedy, strict=False))
    note = f"{same} of {GENERATED} the same"
    margin = greedy_margin(there.greedy, here.greedy, _margins(model, golden[0].ids, here.greedy))
    reach = 2 * max(errors) * float(np.abs(here.logits[0]).max())
    yield check(
        f"{GENERATED} greedy tokens", "core", "margin at first difference", margin, MARGIN if exact else reach, note
    )
    tables: tuple[tuple[Subgraph, np.ndarray | None, np.ndarray | None], ...] = (
        ("token_embedding", here.embeddings, there.embeddings),
        ("per_layer_embedding", here.ple, there.ple),
    )
    for subgraph, table, copy in tables:
        if table is not None and copy is not None:
            yield check(f"{len(table)} rows", subgraph, "relative error", relative_error(copy, table), EXACT)


def _margins(model: TextModel, ids: Sequence[int], tokens: Sequence[int]) -> list[float]:
    """Difference of the best two logits at each of ``tokens``, generated after ``ids``."""
    logits = model.logits([*ids, *tokens[:-1]])[len(ids) - 1 :]
    best = np.sort(logits, -1)[:, -2:]
    return [float(m) for m in best[:, 1] - best[:, 0]]
