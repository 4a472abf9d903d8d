"""Choose a slice from what the user asked for: a published name, custom widths and skips, or a budget."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from g3n_compiler.errors import SliceError
from g3n_compiler.models.published import PublishedSlice
from g3n_compiler.models.registry import core_parameter_count, family_of
from g3n_compiler.models.shape import TextShape
from g3n_compiler.slice.plan import Slice, plan_slice

BUDGET_UNITS, PARAMS_UNITS = ("gb", "mb", "gib", "mib"), ("b", "m")
UNITS = {"b": 1e9, "m": 1e6, "gb": 1e9, "mb": 1e6, "gib": 2**30, "mib": 2**20}


@dataclass(frozen=True)
class SliceOptions:
    """What the user asked for besides the size: at most one of a custom slice and a limit."""

    skip_layers: tuple[int, ...] | None = None
    ffn_dims: tuple[int, ...] | None = None
    budget: str | None = None
    """Bytes of peak memory, such as ``2.5GB``."""
    params: str | None = None
    """Effective parameters, such as ``2.5b``."""

    @property
    def free(self) -> bool:
        return self.skip_layers is not None or self.ffn_dims is not None

    def check(self) -> None:
        """Raise :class:`SliceError` for a limit that is not understood, whatever the checkpoint."""
        if self.budget is not None:
            parse_quantity(self.budget, "--budget", BUDGET_UNITS)
        if self.params is not None:
            parse_quantity(self.params, "--params", PARAMS_UNITS)


@dataclass(frozen=True)
class Choice:
    """A slice, and a sentence that explains why it was chosen."""

    plan: Slice
    size: str | None
    """Its published name; ``None`` for a custom slice."""
    why: str


def choose_slice(
    size: str, options: SliceOptions, config: TextShape, peak_memory: Callable[[TextShape], int]
) -> Choice | None:
    """The slice to compile, or ``None`` for the whole checkpoint.

    Args:
        size: what to compile. A published name means that slice, unless the checkpoint already has its shape.
        config: the checkpoint's configuration.
        peak_memory: the most bytes that a model of a configuration takes; only called for a ``budget``.

    Raises:
        SliceError: the options contradict each other, the checkpoint cannot give the slice, or nothing fits the limit.
    """
    published = family_of(config).published
    row = published.slices.get(size)
    if row is not None and (len(row.ffn_dims), max(row.ffn_dims)) == (config.num_layers, max(config.ffn_dims)):
        row = None if row.ffn_dims == config.ffn_dims else row
    wishes = {
        f"--size {size}": row,
        "--skip-layers or --ffn-dims": options.free or None,
        "--budget": options.budget,
        "--params": options.params,
    }
    asked = [wish for wish, value in wishes.items() if value is not None]
    if len(asked) > 1:
        raise SliceError(f"{asked[0]} and {asked[1]} each choose a slice: give one of them")
    if options.free:
        plan = plan_slice(config, options.skip_layers or (), options.ffn_dims)
        return Choice(plan, None, f"{len(plan.kept)} of {config.num_layers} layers, as asked for")
    if row is not None:
        published.require_sliceable(config, f"--size {size}")
        return Choice(_plan(row, config), row.name, f"the published {row.name}, {row.mmlu_percent:.1f}% of MMLU")
    if options.budget is not None:
        limit = parse_quantity(options.budget, "--budget", BUDGET_UNITS)
        return _best(config, "--budget", options.budget, limit, peak_memory, lambda n: f"{n / 1e9:.2f} GB of memory")
    if options.params is not None:
        limit = parse_quantity(options.params, "--params", PARAMS_UNITS)
        return _best(
            config, "--params", options.params, limit, core_parameter_count, lambda n: f"{n / 1e9:.2f}b parameters"
        )
    return None


def parse_quantity(text: str, option: str, units: tuple[str, ...]) -> int:
    """``2.5GB`` -> 2500000000; raises :class:`SliceError` for anything else."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([a-z]+)", text.strip().lower())
    if match is None or match[2] not in units:
        expected, found = " or ".join(units), text[:60]
        raise SliceError(
            f"{option} {found!r} is not understood: expected a number and {expected}, such as 2.5{units[0]}"
        )
    return int(float(match[1]) * UNITS[match[2]])


def _best(
    config: TextShape,
    option: str,
    asked: str,
    limit: int,
    cost: Callable[[TextShape], int],
    show: Callable[[int], str],
) -> Choice:
    """The published configuration with the highest MMLU, then the lowest cost, whose cost is within ``limit``."""
    published = family_of(config).published
    published.require_sliceable(config, option)
    costs = {row.name: cost(_plan(row, config).apply(config)) for row in published.slices.values()}
    fitting = [row for row in published.slices.values() if costs[row.name] <= limit]
    if not fitting:
        smallest = min(costs, key=lambda name: costs[name])
        raise SliceError(f"nothing fits {option} {asked}: the smallest, {smallest}, takes {show(costs[smallest])}")
    best = min(fitting, key=lambda row: (-row.mmlu_percent, costs[row.name]))
    why = (
        f"{best.name} has the best MMLU ({best.mmlu_percent:.1f}%) of the {len(fitting)} published configurations "
        f"within {option} {asked}: it takes {show(costs[best.name])}"
    )
    return Choice(_plan(best, config), best.name, why)


def _plan(row: PublishedSlice, config: TextShape) -> Slice:
    return plan_slice(config, row.skipped, row.ffn_dims)
