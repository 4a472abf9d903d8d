"""What of a checkpoint is compiled or calibrated: the whole, one slice, or several sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from g3n_compiler.errors import SliceError
from g3n_compiler.models.shape import TextShape
from g3n_compiler.slice.choose import Choice, SliceOptions, choose_slice
from g3n_compiler.slice.elastic import Size, choose_sizes
from g3n_compiler.source import Source


def choose_view(
    source: Source,
    size: str,
    slicing: SliceOptions,
    elastic: Sequence[str] | None,
    peak_memory: Callable[[TextShape], int],
    progress: Callable[[str], None],
) -> tuple[Source, Choice | None, tuple[Size, ...]]:
    """The source as it was asked for, the slice unless it is the whole checkpoint, and the sizes, largest first.

    The source is not divided into the sizes' blocks yet.

    Args:
        peak_memory: the most bytes that a model of a shape takes; only called for a budget.

    Raises:
        SliceError: the options contradict each other, or the checkpoint cannot give what they ask for.
    """
    choice = choose_slice(size, slicing, source.whole, peak_memory)
    sizes = () if elastic is None else choose_sizes(elastic, source.whole)
    if sizes:
        if choice is not None:
            raise SliceError("--elastic and another option each choose a slice: name all sizes in --elastic")
        choice = _largest(sizes[0], source.whole)
        progress(f"nesting the sizes {', '.join(s.name for s in sizes)}, the first for the stock engine")
    if choice is not None:
        source = source.sliced(choice.plan)
        progress(f"slicing: {choice.why}")
    return source, choice, sizes


def _largest(size: Size, shape: TextShape) -> Choice | None:
    """The slice for the largest of several sizes, unless it is the whole checkpoint."""
    if size.plan.is_whole(shape):
        return None
    return Choice(
        size.plan, None, f"{size.name} is the largest size, {len(size.plan.kept)} of {shape.num_layers} layers"
    )
