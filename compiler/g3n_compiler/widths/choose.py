"""A recipe within a size or a loss: fewer bits where they save the most bytes for the least effect.

All weights begin with 8 bits; matrices get 2 only once all have 4, where every runtime has kernels for 2.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

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

Measure = Callable[[Recipe], float]
"""The part of the perplexity that a recipe loses."""


def choose_recipe(job: Job, texts: HeldTexts, bounds: Bounds, narrowest: int = 4) -> Recipe:
    """The best recipe for ``job`` within ``bounds``, by its effect on ``texts``.

    Args:
        narrowest: bits that every runtime has kernels for.

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


@dataclass(frozen=True)
class _Step:
    """From one width to the next narrower one, weight by weight."""

    label: str
    effects: Mapping[str, float]
    """What a weight's narrower width does, beyond the wider one."""
    order: tuple[str, ...]
    """The weights, those first that save most bytes for what they do."""
    recipe: Callable[[Collection[str]], Recipe]
    """The recipe in which these weights are narrow."""

    def within_size(self, most: int, size_of: Callable[[Recipe], int]) -> Recipe | None:
        """The recipe with the least effect that is no larger; ``None`` if even the smallest is."""
        counts = range(len(self.order) + 1)
        count = next((n for n in counts if size_of(self.recipe(self.order[:n])) <= most), None)
        if count is None:
            return None
        narrow = set(self.order[:count])
        # What the last one saved beyond need gives others their bits back, the most harmed first.
        for name in sorted(narrow, key=lambda name: -self.effects[name]):
            if size_of(self.recipe(narrow - {name})) <= most:
                narrow.remove(name)
        return self.recipe(narrow)

    def within_loss(self, most: float, loss_of: Measure) -> int:
        """How many weights, in order, can be narrow; 0 if even none of them loses more."""
        low, high = 0, len(self.order)
        if loss_of(self.recipe(self.order)) <= most:
            return high
        while high - low > 1:  # `high` loses too much
            middle = (low + high) // 2
            low, high = (middle, high) if loss_of(self.recipe(self.order[:middle])) <= most else (low, middle)
        return low


class Choices:
    """The recipes for one model, from int8 everywhere to int4 everywhere, and to int2 in all matrices.

    Args:
        effects: what 4 bits do, by weight, see :func:`~g3n_compiler.widths.effects.measure_effects`.
        size_of: bytes of the files for one runtime, by a recipe.
        narrower: measures what 2 bits do; ``None`` if a runtime has no kernels for them.
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

    def recipe(self, four: Collection[str], two: Collection[str] = ()) -> Recipe:
        """The recipe in which the weights ``four`` have 4 bits, and of these the matrices ``two`` have 2."""
        head, table = (INT4 if name in four else INT8 for name in (HEAD, TABLE))
        roles: dict[Role, Scheme] = {
            **dict.fromkeys(MATRICES, INT4),
            "linear": INT8,
            "head": head,
            "embedding": head,
            "ple": table,
            "vision": INT8,
            "audio": INT8,
        }
        wide = {name: INT8 for name in self._matrices if name not in four}
        return mixed(AUTO, roles, wide | {name: INT2 for name in self._matrices if name in two})

    def choose(self, bounds: Bounds, loss_of: Measure) -> Recipe:
        """The best recipe within the size, or the smallest within the loss if no size is given.

        Raises:
            TargetError: the smallest recipe is larger than the size, or no bound is given.
        """
        if bounds.size is None:
            bounds.require_used(self.recipe(()))
            return self._within_loss(bounds.loss or 0.0, loss_of)
        for step in self._steps():
            if (found := step.within_size(bounds.size, self._size_of)) is not None:
                return found
        least = in_words(self._size_of(step.recipe(step.order)))
        raise TargetError(
            f"--max-size of {in_words(bounds.size)} cannot be had: with {step.label} the files for a runtime take "
            f"{least}. Leave a tower out with --modalities, choose a smaller slice, or allow more"
        )

    def _within_loss(self, most: float, loss_of: Measure) -> Recipe:
        for step in self._steps():
            count = step.within_loss(most, loss_of)
            if count < len(step.order):
                break
        return step.recipe(step.order[:count])

    def _steps(self) -> Iterator[_Step]:
        """The second is measured only if it is asked for."""
        specs = {**text_weights(self._shape), **embedding_weights(self._shape)}
        saved = {name: INT4.nbytes(spec.shape) for name, spec in specs.items()}
        tables = sum(saved[name] for name, spec in specs.items() if spec.role == "ple")
        saved |= {HEAD: saved[HEAD] + saved["embed_tokens"], TABLE: tables}
        yield _step("int4 in all matrices and tables", self._effects, saved, self.recipe)
        if self._narrower is not None:
            two = self._narrower()
            more = {name: max(0.0, two[name] - self._effects[name]) for name in self._matrices}
            label = "int2 in all matrices and int4 in all tables"
            yield _step(label, more, saved, lambda narrow: self.recipe(self._effects, narrow))


def _step(
    label: str,
    effects: Mapping[str, float],
    saved: Mapping[str, int],
    recipe: Callable[[Collection[str]], Recipe],
) -> _Step:
    """Every weight saves half of its bytes, so that the order is the same for each step."""
    return _Step(label, effects, tuple(sorted(effects, key=lambda name: effects[name] / saved[name])), recipe)
