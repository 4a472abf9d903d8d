"""What a family's publisher has released: models on the hub, and slices of them with their quality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from g3n_compiler.errors import SliceError, WrongModel
from g3n_compiler.models.shape import TextShape

Dimensions = tuple[int, int]
"""Layers and FFN width."""


@dataclass(frozen=True)
class PublishedSlice:
    """A published MatFormer slice; ``ffn_dims`` are those of the layers that remain."""

    name: str
    effective_params_b: float
    mmlu_percent: float
    skipped: tuple[int, ...]
    ffn_dims: tuple[int, ...]


@dataclass(frozen=True)
class PublishedModels:
    """What has been published of a family."""

    hub_ids: Mapping[str, str] = field(default_factory=dict)
    """Repositories on the hub, by the size that a user asks for."""
    slices: Mapping[str, PublishedSlice] = field(default_factory=dict)
    """Slices by name."""
    slices_of: str = ""
    """The size of the model that all slices are cut from."""
    made_from: Mapping[str, tuple[Dimensions, ...]] = field(default_factory=dict)
    """Dimensions of the checkpoints that each size can be made from; a size that is not listed can be made from any."""
    not_nested: Mapping[Dimensions, str] = field(default_factory=dict)
    """Dimensions of models that contain no smaller one, with the reason."""

    @property
    def sizes(self) -> tuple[str, ...]:
        return (*self.hub_ids, *(name for name in self.slices if name not in self.hub_ids))

    def hub_id(self, size: str) -> str:
        """The repository that ``size`` is made from."""
        return self.hub_ids.get(size) or self.hub_ids[self.slices_of]

    def check_size(self, size: str, shape: TextShape) -> None:
        """Raise :class:`WrongModel` if a published ``size`` was asked for but the checkpoint has another shape."""
        found = dimensions(shape)
        if found not in self.made_from.get(size, (found,)):
            expected = " or ".join(f"{layers} layers and FFNs of {width}" for layers, width in self.made_from[size])
            raise WrongModel(
                f"the checkpoint has {found[0]} layers and FFNs of {found[1]}, but --size {size} is made "
                f"from {expected}: leave --size out to compile it as it is"
            )

    def require_sliceable(self, shape: TextShape, what: str) -> None:
        """Raise :class:`SliceError` unless published slices can be cut from ``shape``."""
        found, expected = dimensions(shape), self.made_from.get(self.slices_of, ())
        if found not in expected:
            size = self.slices_of.upper()
            shapes = " or ".join(f"{layers} layers, FFNs of {width}" for layers, width in expected)
            raise SliceError(
                f"{what} names a published slice of {size} ({shapes}), the checkpoint has {found[0]} layers and FFNs "
                f"of {found[1]}: pass an {size} checkpoint, or --skip-layers and --ffn-dims"
            )


def dimensions(shape: TextShape) -> Dimensions:
    """The number of layers and the widest FFN of ``shape``."""
    return shape.num_layers, max(shape.ffn_dims)
