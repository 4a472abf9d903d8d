"""Which layers a slice keeps and how wide their FFNs are, checked against what a nested model can give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from g3n_compiler.errors import SliceError
from g3n_compiler.models.published import dimensions
from g3n_compiler.models.registry import family_of
from g3n_compiler.models.shape import TextShape

Shape = TypeVar("Shape", bound=TextShape)
GROUP = 32
"""FFN widths are multiples of this: the smallest block that quantised kernels accept."""


@dataclass(frozen=True)
class Slice:
    """The ``kept`` layers of the source, ascending, and the FFN width of each."""

    kept: tuple[int, ...]
    ffn_dims: tuple[int, ...]

    def apply(self, config: Shape) -> Shape:
        """The slice's configuration: every per-layer field is rebuilt from the layers that remain."""
        return config.kept(self.kept, self.ffn_dims)

    def is_whole(self, config: TextShape) -> bool:
        return self.kept == tuple(range(config.num_layers)) and self.ffn_dims == config.ffn_dims


def plan_slice(config: TextShape, skip: Sequence[int] = (), ffn_dims: Sequence[int] | None = None) -> Slice:
    """Check a request and return it as a slice.

    Args:
        skip: layers of the source to leave out.
        ffn_dims: one width for all kept layers, or one for each kept layer; ``None`` keeps the widths as they are.

    Raises:
        SliceError: the source is not a nested model, or cannot give this slice.
    """
    if why := family_of(config).published.not_nested.get(dimensions(config)):
        raise SliceError(f"the checkpoint has {why} checkpoint to slice")
    left_out = set(skip)
    wrong = sorted({i for i in skip if not 0 <= i < config.num_layers})
    if wrong:
        raise SliceError(f"layer {wrong[0]} cannot be skipped: the checkpoint has layers 0 to {config.num_layers - 1}")
    _check_owners(config, skip)
    kept = tuple(i for i in range(config.num_layers) if i not in left_out)
    available = tuple(config.ffn_dims[i] for i in kept)
    dims = tuple(ffn_dims) if ffn_dims is not None else available
    if len(dims) == 1:
        dims *= len(kept)
    if len(dims) != len(kept):
        raise SliceError(
            f"{len(dims)} FFN widths were given for the {len(kept)} layers that remain: give one, or one for each layer"
        )
    for layer, dim, most in zip(kept, dims, available, strict=True):
        if dim % GROUP or not 0 < dim <= most:
            raise SliceError(
                f"layer {layer} cannot have an FFN of {dim}: expected a multiple of {GROUP} up to its own {most}"
            )
    return Slice(kept, dims)


def _check_owners(config: TextShape, skip: Sequence[int]) -> None:
    """Layers whose keys and values other layers read must stay."""
    read = {config.kv_owner(i) for i in range(config.num_kv_layers, config.num_layers)}
    if gone := sorted(read.intersection(skip)):
        raise SliceError(
            f"layer {gone[0]} cannot be skipped: the layers from {config.num_kv_layers} on read its keys and values"
        )
