"""Which layers a slice keeps and how wide their FFNs are, checked against what a nested model can give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from g3n_compiler.checkpoint.config import TextConfig
from g3n_compiler.errors import SliceError

GROUP = 32
"""FFN widths are multiples of this: the smallest block that quantised kernels take."""
NOT_NESTED = {(30, 8192)}
"""Layers and FFN width of published models that are themselves slices: they hold no smaller one."""


@dataclass(frozen=True)
class Slice:
    """``kept`` layers of the source, rising, and the FFN width of each."""

    kept: tuple[int, ...]
    ffn_dims: tuple[int, ...]

    def apply(self, config: TextConfig) -> TextConfig:
        """The configuration of the slice: every per-layer field is rebuilt from the layers that stay."""
        shared = sum(i >= config.num_kv_layers for i in self.kept)
        return replace(
            config,
            num_layers=len(self.kept),
            ffn_dims=self.ffn_dims,
            layer_types=tuple(config.layer_types[i] for i in self.kept),
            sparsity=tuple(config.sparsity[i] for i in self.kept),
            num_kv_shared_layers=shared,
        )

    def is_whole(self, config: TextConfig) -> bool:
        return self.kept == tuple(range(config.num_layers)) and self.ffn_dims == config.ffn_dims


def plan_slice(config: TextConfig, skip: Sequence[int] = (), ffn_dims: Sequence[int] | None = None) -> Slice:
    """Check a wish and return it as a slice.

    Args:
        skip: layers of the source to leave out.
        ffn_dims: one width for all kept layers, or one for each of them, counted after the skip; ``None`` keeps all.

    Raises:
        SliceError: the source is no nested model, or cannot give this slice.
    """
    if (config.num_layers, max(config.ffn_dims)) in NOT_NESTED:
        raise SliceError(
            "the checkpoint has E2B's shape: it is itself a slice and was not trained to hold a smaller one. "
            "Pass an E4B checkpoint to slice"
        )
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
            f"{len(dims)} FFN widths were given for the {len(kept)} layers that stay: give one, or one each"
        )
    for layer, dim, most in zip(kept, dims, available, strict=True):
        if dim % GROUP or not 0 < dim <= most:
            raise SliceError(
                f"layer {layer} cannot have an FFN of {dim}: expected a multiple of {GROUP} up to its own {most}"
            )
    return Slice(kept, dims)


def _check_owners(config: TextConfig, skip: Sequence[int]) -> None:
    """Layers whose keys and values others read must stay."""
    read = {config.kv_owner(i) for i in range(config.num_kv_layers, config.num_layers)}
    if gone := sorted(read.intersection(skip)):
        raise SliceError(
            f"layer {gone[0]} cannot be skipped: the layers from {config.num_kv_layers} on read its keys and values"
        )
