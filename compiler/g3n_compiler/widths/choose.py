"""A recipe within a size or a loss: fewer bits where they save the most bytes for the least effect.

All weights begin with 8 bits and get 4; matrices get 2, where all that will run them have kernels for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from g3n_compiler.checkpoint.meter import in_words
from g3n_compiler.errors import TargetError
from g3n_compiler.lower.job import Job
from g3n_compiler.models.embedding_tables import embedding_weights
from g3n_compiler.models.registry import text_weights
from g3n_compiler.models.shape import TextShape
from g3n_compiler.models.weights import Role
from g3n_compiler.quantize.recipe import AUTO, INT2, INT4, INT8, Recipe, Scheme
from g3n_compiler.quantize.saved import mixed
from g3n_compiler.verify.held import HeldTexts
from g3n_compiler.verify.measure_loss import measure_loss
from g3n_compiler.widths.bounds import Bounds, expected_bytes
from g3n_compiler.widths.effects import HEAD, MATRICES, TABLE, measure_effects

SCHEMES: dict[int, Scheme] = {scheme.bits: scheme for scheme in (INT2, INT4, INT8)}
Measure = Callable[[Recipe], float]
"""The part of the perplexity that a recipe loses."""


def choose_recipe(job: Job, texts: HeldTexts, bounds: Bounds, narrowest: int = 4) -> Recipe:
    """The best recipe for ``job`` within ``bounds``, by its effect on ``texts``.

    Args:
        narrowest: the fewest bits that all that will run it have kernels for.

    Raises:
        TargetError: with the fewest bits everywhere it is larger than the size.
    """

    def loss_of(recipe: Recipe) -> float:
        loss = measure_loss(job.source, recipe, texts)
        told = [f"{list(recipe.weights.values()).count(own)} matrices with {own.bits} bits" for own in (INT8, INT2)]
        size = in_words(expected_bytes(job, recipe))
        job.progress(f"{size}: {loss.lost:.1%} of the perplexity lost, {' and '.join(told)}")
        return loss.lost

    def effects_of(scheme: Scheme) -> dict[str, float]:
        job.progress(f"measuring what {scheme.label} does in each matrix")
        return measure_effects(job.source, texts.ids, job.progress, scheme)

    narrower = (lambda: effects_of(INT2)) if narrowest == INT2.bits else None
    choices = Choices(job.source.text, effects_of(INT4), lambda recipe: expected_bytes(job, recipe), narrower)
    return choices.choose(bounds, loss_of)


class Step(NamedTuple):
    """A weight that gets so many bits, from twice as many."""

    name: str
    bits: int


@dataclass(frozen=True)
class _Ladder:
    """Steps from 8 bits everywhere to the fewest, those first that save most bytes for what they do."""

    effects: Mapping[Step, float]
    """What a step does, beyond what the weight's step before did."""
    order: tuple[Step, ...]
    recipe: Callable[[Collection[Step]], Recipe]
    """The recipe after these steps."""

    def within_size(self, most: int, size_of: Callable[[Recipe], int]) -> Recipe | None:
        """The recipe with the least effect that is no larger; ``None`` if even the smallest is."""
        counts = range(len(self.order) + 1)
        count = next((n for n in counts if size_of(self.recipe(self.order[:n])) <= most), None)
        if count is None:
            return None
        taken = set(self.order[:count])
        # What the last one saved beyond need gives others their bits back, the most harmed first.
        for step in sorted(taken, key=lambda step: (-self.effects[step], step.bits)):
            if Step(step.name, step.bits // 2) not in taken and size_of(self.recipe(taken - {step})) <= most:
                taken.remove(step)
        return self.recipe(taken)

    def within_loss(self, most: float, loss_of: Measure) -> Recipe:
        """The smallest recipe that loses no more, or int8 everywhere if even that does."""
        low, high = 0, len(self.order)
        if loss_of(self.recipe(self.order)) <= most:
            return self.recipe(self.order)
        while high - low > 1:  # `high` loses too much
            middle = (low + high) // 2
            low, high = (middle, high) if loss_of(self.recipe(self.order[:middle])) <= most else (low, middle)
        return self.recipe(self.order[:low])


class Choices:
    """The recipes for one model, from int8 everywhere to int4 everywhere, and to int2 in all matrices.

    What 2 bits do is measured only if 4 in all matrices and in the per-layer table, which leave the head alone, are
    not enough: it takes as long as for 4 bits.

    Args:
        effects: what 4 bits do, by weight, see :func:`~g3n_compiler.widths.effects.measure_effects`.
        size_of: bytes of the files for one runtime, by a recipe.
        narrower: measures what 2 bits do; ``None`` if something has no kernels for them.
    """

    def __init__(
        self,
        shape: TextShape,
        effects: Mapping[str, float],
        size_of: Callable[[Recipe], int],
        narrower: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        self._shape, self._size_of, self._effects, self._narrower = shape, size_of, effects, narrower
        self._matrices = [name for name, spec in text_weights(shape).items() if spec.role in MATRICES]
        specs = {**text_weights(shape), **embedding_weights(shape)}
        saved = {name: INT4.nbytes(spec.shape) for name, spec in specs.items()}
        tables = sum(saved[name] for name, spec in specs.items() if spec.role == "ple")
        self._saved = {**saved, HEAD: saved[HEAD] + saved["embed_tokens"], TABLE: tables}
        """Bytes that 4 bits save in each weight, twice as many as 2 save then."""

    def recipe(self, steps: Collection[Step]) -> Recipe:
        """The recipe after these steps from 8 bits everywhere."""
        bits = dict.fromkeys((*self._matrices, HEAD, TABLE), 8)
        for step in steps:
            bits[step.name] = min(bits[step.name], step.bits)
        head, table = (SCHEMES[bits[name]] for name in (HEAD, TABLE))
        roles: dict[Role, Scheme] = {
            **dict.fromkeys(MATRICES, INT4),
            "linear": INT8,
            "head": head,
            "embedding": head,
            "ple": table,
            "vision": INT8,
            "audio": INT8,
        }
        return mixed(AUTO, roles, {name: SCHEMES[bits[name]] for name in self._matrices if bits[name] != INT4.bits})

    def choose(self, bounds: Bounds, loss_of: Measure) -> Recipe:
        """The best recipe within the size, or the smallest within the loss if no size is given.

        Raises:
            TargetError: the smallest recipe is larger than the size, or no bound is given.
        """
        bounds.require_used(self.recipe(()))
        usual = self.recipe([Step(name, INT4.bits) for name in self._effects if name != HEAD])
        if bounds.size is None:
            most = bounds.loss or 0.0
            enough = self._narrower is None or loss_of(usual) > most
            return self._ladder(None if enough else self._narrower).within_loss(most, loss_of)
        enough = self._narrower is None or self._size_of(usual) <= bounds.size
        ladder = self._ladder(None if enough else self._narrower)
        if (found := ladder.within_size(bounds.size, self._size_of)) is not None:
            return found
        fewest = f"int4 in all matrices{' and tables' if enough else ', int2 in those of attention and FFN'}"
        raise TargetError(
            f"--max-size of {in_words(bounds.size)} cannot be had: with {fewest} the files for a runtime take "
            f"{in_words(self._size_of(self.recipe(ladder.order)))}. Leave a tower out with --modalities, choose a "
            "smaller slice, or allow more"
        )

    def _ladder(self, narrower: Callable[[], Mapping[str, float]] | None) -> _Ladder:
        effects = {Step(name, INT4.bits): effect for name, effect in self._effects.items()}
        cost = {step: effect / self._saved[step.name] for step, effect in effects.items()}
        if narrower is not None:
            two = narrower()
            for name in self._matrices:
                before, step = Step(name, INT4.bits), Step(name, INT2.bits)
                effects[step] = max(0.0, two[name] - effects[before])
                # never before the step to 4 bits
                cost[step] = max(cost[before], 2 * effects[step] / self._saved[name])
        order = sorted(effects, key=lambda step: (cost[step], -step.bits))
        return _Ladder(effects, tuple(order), self.recipe)
