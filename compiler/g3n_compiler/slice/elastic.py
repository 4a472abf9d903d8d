"""Several nested sizes of one checkpoint, for one bundle with one set of weights.

Each layer's FFN is divided into blocks at the widths of all the sizes, and a size computes the first blocks. Each block
of the down projection has scales of its own, so a size's weights are rounded the same way whether or not larger sizes
are present. The same holds for the rows of the per-layer table, which are grouped by the sizes that read them. All
sizes keep the layers that own keys and values: their caches are the same, so another size can continue a text at any
token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from g3n_compiler.errors import SliceError
from g3n_compiler.models.registry import family_of
from g3n_compiler.models.shape import TextShape
from g3n_compiler.slice.plan import Slice, plan_slice
from g3n_runtime.names import meant

FULL, HALF = "full", "half"


@dataclass(frozen=True)
class Size:
    """One size of an elastic bundle; ``plan`` numbers layers as the checkpoint does."""

    name: str
    plan: Slice
    config: TextShape
    """Its shape, divided where other sizes end."""
    rows: tuple[int, ...]
    """For each of its layers, the corresponding layer of the largest size, whose per-layer inputs every size receives.
    """


def choose_sizes(names: Sequence[str], config: TextShape) -> tuple[Size, ...]:
    """The sizes called ``names``: the largest first, then the others in the given order.

    A name is a published one (``e2b``), ``full``, ``half`` (every FFN at half its width) or a width; the latter three
    may be followed by the layers to skip: ``half-5-6``.

    Raises:
        SliceError: there are fewer than two sizes, a name is duplicate or unknown, the checkpoint cannot give a size, a
            size skips a layer that owns a cache, or a size is not part of the largest one.
    """
    if len(names) < 2 or len(set(names)) < len(names):
        raise SliceError(f"--elastic {','.join(names)}: expected two or more different sizes, such as e2b,e4b")
    plans = {name: plan_named(name, config) for name in names}
    for name, plan in plans.items():
        owners = set(range(config.num_kv_layers))
        if gone := sorted(owners.difference(plan.kept)):
            raise SliceError(
                f"size {name} skips layer {gone[0]}, which has a cache of its own: sizes that can take over from each "
                f"other in the middle of a text skip only layers {config.num_kv_layers} and later"
            )
    widths = {name: dict(zip(plan.kept, plan.ffn_dims, strict=True)) for name, plan in plans.items()}
    largest = max(names, key=lambda name: (len(widths[name]), sum(widths[name].values())))
    for name, own in widths.items():
        if outside := [i for i, width in own.items() if width > widths[largest].get(i, 0)]:
            raise SliceError(
                f"size {name} is not part of {largest}, which has {widths[largest].get(outside[0], 0)} of its "
                f"{own[outside[0]]} FFN columns in layer {outside[0]}: add a size that holds both, such as {FULL}"
            )
    points = {i: sorted({own[i] for own in widths.values() if i in own}) for i in plans[largest].kept}
    order = [largest, *(name for name in names if name != largest)]
    groups = _groups([plans[name].kept for name in order])
    return tuple(_size(name, plans[name], plans[largest], points, groups, config) for name in order)


def _groups(kept: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The layers of the largest size, grouped by which sizes keep them; those that most sizes keep come first."""
    by_keepers: dict[tuple[bool, ...], list[int]] = {}
    for layer in kept[0]:
        by_keepers.setdefault(tuple(layer in k for k in kept), []).append(layer)
    return [tuple(by_keepers[keepers]) for keepers in sorted(by_keepers, key=lambda k: -sum(k))]


def _size(
    name: str,
    plan: Slice,
    largest: Slice,
    points: dict[int, list[int]],
    groups: list[tuple[int, ...]],
    config: TextShape,
) -> Size:
    blocks = []
    for layer, width in zip(plan.kept, plan.ffn_dims, strict=True):
        ends = [point for point in points[layer] if point <= width]
        blocks.append(tuple(end - begin for begin, end in zip([0, *ends], ends, strict=False)))
    number = {layer: i for i, layer in enumerate(plan.kept)}
    own = tuple(tuple(number[i] for i in group if i in number) for group in groups)
    shape = replace(plan.apply(config), ffn_blocks=tuple(blocks), ple_groups=tuple(g for g in own if g))
    return Size(name, plan, shape, tuple(largest.kept.index(i) for i in plan.kept))


def plan_named(name: str, config: TextShape) -> Slice:
    """The slice that ``name`` stands for, see :func:`choose_sizes`."""
    published = family_of(config).published
    if (row := published.slices.get(name)) is not None:
        published.require_sliceable(config, f"--elastic {name}")
        return plan_slice(config, row.skipped, row.ffn_dims)
    match = re.fullmatch(rf"({FULL}|{HALF}|[0-9]{{1,9}})((?:-[0-9]{{1,9}})*)", name)
    if match is None:
        raise SliceError(
            f"--elastic {name[:60]!r} is not a size: expected a published name, {FULL}, {HALF} or an FFN width, then "
            f"the layers to skip, as in {HALF}-20-21{meant(name, (*published.slices, FULL, HALF))}"
        )
    skip = tuple(int(i) for i in match[2].split("-")[1:])
    kept = [i for i in range(config.num_layers) if i not in skip]
    if match[1] == FULL:
        return plan_slice(config, skip)
    dims = [config.ffn_dims[i] // 2 for i in kept] if match[1] == HALF else [int(match[1])]
    return plan_slice(config, skip, dims)
