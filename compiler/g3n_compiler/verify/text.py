"""The comparisons of one runtime's artifact with the reference of its recipe."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from g3n_compiler.errors import ParityError
from g3n_compiler.heap import release_free_memory
from g3n_compiler.lower.job import Job
from g3n_compiler.lower.opened import LayeredModel, TextEntry, TextModel
from g3n_compiler.lower.subgraphs import Subgraph
from g3n_compiler.verify.checks import EXACT, MARGIN, SAME, Check, greedy_margin, relative_error
from g3n_compiler.verify.golden import GENERATED, Golden
from g3n_compiler.verify.layers import JITTER, REACH, TYPICAL, layer_errors
from g3n_compiler.verify.reference import Reference


@dataclass(frozen=True)
class Expected:
    """The references' answers to the golden inputs, logits ``[T, vocab]`` of each; none of a model that is not held."""

    golden: list[Golden]
    exact: list[np.ndarray] = field(default_factory=list)
    recipe: list[np.ndarray] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)
    """Relative errors of logits that float32 implementations may have on each golden input."""


@dataclass(frozen=True)
class _Context:
    """What all comparisons of one artifact share."""

    job: Job
    runtime: str
    expected: Expected
    rounded: Reference

    @property
    def exact(self) -> bool:
        return self.job.recipe.name == "fp32"

    @property
    def reference(self) -> str:
        return "eager fp32" if self.exact else f"fake-quant {self.job.recipe.name}"

    def check(
        self,
        what: str,
        metric: str,
        value: float,
        limit: float,
        note: str = "",
        parts: tuple[tuple[str, float], ...] = (),
    ) -> Check:
        return Check(what, "core", self.runtime, self.reference, metric, value, limit, note, parts)


def artifact_checks(job: Job, backend: TextEntry, expected: Expected, rounded: Reference) -> list[Check]:
    """Compare what ``backend`` wrote with ``rounded``, the reference over the recipe's weights.

    A quantised artifact that can be run layer by layer is judged so, and its whole graph by giving what its layers
    give: what rounding adds up to over all layers says more about the weights than about the artifact.
    """
    context = _Context(job, backend.runtime, expected, rounded)
    layered = dict(backend.open_layers(job.files, job.config))
    if not layered and not expected.recipe:
        raise ParityError(f"{backend.runtime} cannot be run layer by layer, and the model is too large to be run whole")
    checks: list[Check] = []
    logits: dict[str, np.ndarray] = {}
    for entry in list(layered):
        model = layered.pop(entry)
        checks += _layer_checks(context, entry, model, logits)
        del model  # before the whole graph is opened
    release_free_memory()
    for entry, whole in backend.open_models(job.files):
        checks += _table_checks(context, whole)
        if logits:
            checks += _same_as_layers(context, entry, whole, logits)
        if expected.recipe and (context.exact or not logits):
            checks += _logit_checks(context, entry, whole)
        if expected.recipe:
            checks.append(_greedy_check(context, entry, whole))
        del whole  # before the next is opened
        release_free_memory()
    return checks


def _layer_checks(context: _Context, entry: str, model: LayeredModel, logits: dict[str, np.ndarray]) -> Iterator[Check]:
    """Each golden input layer by layer; what the layers make of it is left in ``logits`` by its name."""
    limit = EXACT if context.exact else context.job.recipe.layer_tolerance
    for g in context.expected.golden:
        # In float32 nothing is rounded to steps, so no layer has an excuse.
        errors = layer_errors(context.rounded, model, g.ids, g.prompt, math.inf if context.exact else limit)
        logits[g.name] = errors.logits
        what = f"{entry}: each layer alone, {g.prompt} tokens of prompt, {len(g.ids) - g.prompt} decoded, {g.name}"
        note, parts = f"worst in {errors.steady.name}", tuple((part.name, part.worst) for part in errors.parts)
        yield context.check(what, "relative error", errors.steady.worst, limit, note, parts)
        for part in errors.sensitive:
            assert part.own is not None
            what = f"{entry}: {part.name} alone, {g.name}"
            note = f"the reference moves by {part.own:.2g} when its input does by {JITTER:g}"
            yield context.check(what, "relative error", part.worst, REACH * part.own, note)
            half = "relative error of half of the positions"
            yield context.check(what, half, part.median, TYPICAL * limit, note)


def _same_as_layers(context: _Context, entry: str, model: TextModel, logits: dict[str, np.ndarray]) -> Iterator[Check]:
    for g in context.expected.golden:
        error = relative_error(model.prefilled_logits(g.ids, g.prompt), logits[g.name])
        what = f"{entry}: the whole graph, {g.name}"
        yield Check(what, "core", context.runtime, "its own layers", "relative error", error, SAME)


def _logit_checks(context: _Context, entry: str, model: TextModel) -> Iterator[Check]:
    expected = context.expected
    for g, want, exact in zip(expected.golden, expected.recipe, expected.limits, strict=True):
        limit = exact if context.exact else context.job.recipe.logit_tolerance
        error = relative_error(model.logits(g.ids), want)
        yield context.check(f"{entry}: {len(g.ids)} tokens decoded, {g.name}", "relative error", error, limit)
        error = relative_error(model.prefilled_logits(g.ids, g.prompt), want[g.prompt - 1 :])
        yield context.check(f"{entry}: {g.prompt} tokens prefilled, {g.name}", "relative error", error, limit)


def _greedy_check(context: _Context, entry: str, model: TextModel) -> Check:
    golden, tolerance = context.expected.golden[0], context.job.recipe.logit_tolerance
    tokens, margins = context.rounded.greedy(golden.ids, GENERATED)
    margin = greedy_margin(model.greedy(golden.ids, GENERATED), tokens, margins)
    # Measured on the very tokens: where an activation is rounded the other way, all logits after it jump.
    ids = [*golden.ids, *tokens[:-1]]
    want = context.rounded.logits(ids).numpy()
    # Two logits that are each off by the worst error can change places only if they were twice that close.
    reach = 2 * min(relative_error(model.logits(ids), want), tolerance) * float(np.abs(want).max())
    limit = max(MARGIN, reach if context.expected.limits[0] > EXACT else 0.0) if context.exact else reach
    return context.check(f"{entry}: {GENERATED} greedy tokens", "margin at first difference", margin, limit)


def _table_checks(context: _Context, model: TextModel) -> list[Check]:
    """Rows of both emitted tables, with the ids on either side of where the per-layer table ends."""
    config, tables = context.job.config, context.rounded.tables
    ids = [0, 1, config.bos_id, config.ple_vocab_size - 1, min(config.ple_vocab_size, config.vocab_size - 1)]
    ids.append(config.vocab_size - 1)
    return [
        _rows_check(context, "token_embedding", model.embeddings(ids), tables.embeddings(ids)[0].numpy()),
        _rows_check(context, "per_layer_embedding", model.ple(ids), tables.ple(ids).numpy().reshape(len(ids), -1)),
    ]


def _rows_check(context: _Context, table: Subgraph, got: np.ndarray, want: np.ndarray) -> Check:
    error = relative_error(got, want)
    return Check(f"{len(want)} rows", table, context.runtime, context.reference, "relative error", error, EXACT)
