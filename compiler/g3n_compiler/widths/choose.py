"""A recipe within a size or a loss: 4 bits where they save the most bytes for the least effect, 8 elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from g3n_compiler.checkpoint.meter import in_words
from g3n_compiler.errors import TargetError
from g3n_compiler.lower.job import Job
from g3n_compiler.models.embedding_tables import embedding_weights
from g3n_compiler.models.registry import text_weights
from g3n_compiler.models.shape import TextShape
from g3n_compiler.models.weights import Role
from g3n_compiler.quantize.recipe import AUTO, INT4, INT8, Recipe, Scheme
from g3n_compiler.quantize.saved import mixed
from g3n_compiler.verify.held import HeldTexts
from g3n_compiler.verify.measure_loss import measure_loss
from g3n_compiler.widths.bounds import Bounds, expected_bytes
from g3n_compiler.widths.effects import HEAD, MATRICES, TABLE, measure_effects


def choose_recipe(job: Job, texts: HeldTexts, bounds: Bounds) -> Recipe:
    """The best recipe for ``job`` within ``bounds``, by its effect on ``texts``.

    Raises:
        TargetError: int4 everywhere is larger than the size.
    """
    effects = measure_effects(job.source, texts.ids, job.progress)

    def loss_of(recipe: Recipe) -> float:
        loss = measure_loss(job.source, recipe, texts)
        size = in_words(expected_bytes(job, recipe))
        job.progress(f"{size}: {loss.lost:.1%} of the perplexity lost, {len(recipe.weights)} matrices with 8 bits")
        return loss.lost

    choices = Choices(job.source.text, effects, lambda recipe: expected_bytes(job, recipe))
    return choices.choose(bounds, loss_of)


class Choices:
    """The recipes for one model, from int8 everywhere to int4 everywhere.

    Args:
        effects: what 4 bits do, by weight, see :func:`~g3n_compiler.widths.effects.measure_effects`.
        size_of: bytes of the files for one runtime, by a recipe.
    """

    def __init__(self, shape: TextShape, effects: Mapping[str, float], size_of: Callable[[Recipe], int]) -> None:
        self._matrices = [name for name, spec in text_weights(shape).items() if spec.role in MATRICES]
        self._size_of, self._effects = size_of, effects
        saved = self._saved(shape)
        self._order = sorted(effects, key=lambda name: effects[name] / saved[name])

    def recipe(self, four: Collection[str]) -> Recipe:
        """The recipe in which the weights ``four`` have 4 bits."""
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
        return mixed(AUTO, roles, {name: INT8 for name in self._matrices if name not in four})

    def choose(self, bounds: Bounds, loss_of: Callable[[Recipe], float]) -> Recipe:
        """The best recipe within the size, or the smallest within the loss if no size is given.

        Args:
            loss_of: measures the part of the perplexity that a recipe loses.

        Raises:
            TargetError: int4 everywhere is larger than the size, or no bound is given.
        """
        if bounds.size is not None:
            return self.recipe(self._within_size(bounds.size))
        bounds.require_used(self.recipe(()))
        return self.recipe(self._order[: self._within_loss(bounds.loss or 0.0, loss_of)])

    def _within_size(self, most: int) -> set[str]:
        count = next((n for n in range(len(self._order) + 1) if self._size(self._order[:n]) <= most), None)
        if count is None:
            least = in_words(self._size(self._order))
            raise TargetError(
                f"--max-size of {in_words(most)} cannot be had: with int4 in all matrices and tables the files for a "
                f"runtime take {least}. Leave a tower out with --modalities, choose a smaller slice, or allow more"
            )
        four = set(self._order[:count])
        # What the last one saved beyond need gives others their bits back, the most harmed first.
        for name in sorted(four, key=lambda name: -self._effects[name]):
            if self._size(four - {name}) <= most:
                four.remove(name)
        return four

    def _within_loss(self, most: float, loss_of: Callable[[Recipe], float]) -> int:
        """How many weights, in order, can have 4 bits; 0 if even int8 everywhere loses more."""
        low, high = 0, len(self._order)
        if loss_of(self.recipe(self._order)) <= most:
            return high
        while high - low > 1:  # `high` loses too much
            middle = (low + high) // 2
            low, high = (middle, high) if loss_of(self.recipe(self._order[:middle])) <= most else (low, middle)
        return low

    def _size(self, four: Collection[str]) -> int:
        return self._size_of(self.recipe(four))

    @staticmethod
    def _saved(shape: TextShape) -> dict[str, int]:
        """Bytes that 4 bits save in each weight."""
        specs = {**text_weights(shape), **embedding_weights(shape)}
        half = {name: INT4.nbytes(spec.shape) for name, spec in specs.items()}
        tables = sum(half[name] for name, spec in specs.items() if spec.role == "ple")
        return {**half, HEAD: half[HEAD] + half["embed_tokens"], TABLE: tables}
