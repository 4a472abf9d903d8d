"""One lowering for all delegates of a kind: made with stand-ins for the weights, whose names are then replaced.

XNNPACK's blob holds no weights, only their names (the SHA-256 of their bytes). Delegates with the same arithmetic,
shapes and schemes have the same blob except for those names, so neither the time nor the memory of a lowering grows
with the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from g3n_compiler.errors import ParityError
from g3n_compiler.lower.executorch.delegates.constants import WithConstants
from g3n_compiler.lower.executorch.delegates.weight_store import StoredWeights, data_name, encode
from g3n_compiler.lower.executorch.weights import part_shapes
from g3n_compiler.models.weights import WeightSpec
from g3n_compiler.quantize.recipe import Recipe, Scheme

BACKEND = "XnnpackBackend"


@dataclass(frozen=True)
class Template:
    """A kind of delegate, lowered for the weights whose names begin with ``prefix``."""

    prefix: str
    blob: bytes
    names: Mapping[tuple[str, str], str]
    """The blob's name for each part of each weight."""
    constants: Mapping[str, bytes]
    """The other data that the blob requests."""
    shape: torch.export.ExportedProgram
    """A program with the same signature that does nothing; it stands for the blob while the methods are traced."""
    operators: torch.fx.GraphModule
    """The operators of the delegate."""
    symbols: Mapping[Any, str] = field(default_factory=dict)
    """Sizes that are only known at run time, by their symbols in ``operators``."""
    compile_specs: tuple[Any, ...] = ()
    lifted: Sequence[Tensor] = ()
    """The inputs after the caller's, see :mod:`.constants`; a stand-in where a weight belongs."""

    def delegate(self, stored: StoredWeights, prefix: str) -> nn.Module:
        """A delegate for the stored weights whose names begin with ``prefix``."""
        from executorch.exir.lowered_backend_module import LoweredBackendModule

        def own(weight: str) -> str:
            return prefix + weight.removeprefix(self.prefix) if weight.startswith(self.prefix) else weight

        blob, weights = self.blob, {name: key for key, name in self.names.items()}
        for (weight, part), name in self.names.items():
            # Both names have the same length, and a hash occurs nowhere else in the blob.
            blob = blob.replace(name.encode(), stored.names[own(weight), part].encode())
        module = LoweredBackendModule(self.shape, BACKEND, blob, list(self.compile_specs))
        constants: list[Tensor] = []
        for tensor in self.lifted:
            key = weights.get(_name_of(tensor))
            constants.append(tensor if key is None else stored.tensor(own(key[0]), key[1], tensor.shape))
        return WithConstants(module, constants) if constants else module


class Templates:
    """Templates, by what their lowering depends on; each is made when it is first requested."""

    def __init__(self, recipe: Recipe, stored: StoredWeights) -> None:
        self.recipe, self.stored = recipe, stored
        self._made: dict[tuple[Any, ...], Template] = {}

    def get(self, kind: Any, specs: Mapping[str, WeightSpec], prefix: str, lower: Callable[[], Template]) -> Template:
        """The template of ``kind`` for weights with the shapes and schemes of ``specs``, whatever their ``prefix``."""
        weights = ((name.removeprefix(prefix), spec.shape, self.recipe.scheme(spec)) for name, spec in specs.items())
        key = (kind, *weights)
        if key not in self._made:
            self._made[key] = lower()
        return self._made[key]

    @property
    def constants(self) -> dict[str, bytes]:
        """Data, by name, other than weights."""
        return {name: data for template in self._made.values() for name, data in template.constants.items()}


class SameSignature(nn.Module):
    """Has the inputs and outputs of a delegate, but does nothing.

    Args:
        outputs: returns tensors with the shapes of the outputs, given the inputs.
    """

    def __init__(self, outputs: Callable[..., tuple[Tensor, ...]]) -> None:
        super().__init__()
        self._outputs = outputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self._outputs(*inputs)


class StandIns:
    """Meaningless parts of the right shapes, each with unique bytes, so that its hash identifies it."""

    def __init__(self) -> None:
        self.names: dict[tuple[str, str], str] = {}

    def __call__(self, spec: WeightSpec, scheme: Scheme) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        for part, shape in part_shapes(spec, scheme).items():
            number = len(self.names) + 1
            if part == "values":
                out[part] = torch.zeros(shape, dtype=torch.int8)
                digits = [number // 7**i % 7 for i in range(4)]
                out[part].view(-1)[:4] = torch.tensor(digits, dtype=torch.int8)
            else:
                out[part] = torch.full(shape, number + 0.5)
            self.names[spec.name, part] = data_name(part, encode(part, scheme, out[part]))
        return out


def other_data(
    what: str, stand_ins: StandIns, blob: bytes, data: Mapping[str, bytes], lifted: Sequence[Tensor]
) -> dict[str, bytes]:
    """What ``blob`` requests besides the stand-ins, each of which it must name exactly once, or never if it was lifted.

    Raises:
        ParityError: it does not, so replacing names would silently go wrong.
    """
    left, inputs = dict(data), {_name_of(tensor) for tensor in lifted}
    for (weight, part), name in stand_ins.names.items():
        if name in inputs and name not in left:
            continue
        if name not in left or blob.count(name.encode()) != 1:
            raise ParityError(
                f"{what}: part {part!r} of {weight!r} does not occur exactly once in what XNNPACK's serializer "
                "wrote: the pinned ExecuTorch version names weights in another way"
            )
        del left[name]
    return left


def _name_of(tensor: Tensor) -> str:
    """The name that a float weight of these values has."""
    return data_name("", tensor.contiguous().numpy().tobytes())


def edge_program(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """An exported delegate in ExecuTorch's edge dialect."""
    from executorch.exir import EdgeCompileConfig, to_edge

    config = EdgeCompileConfig(
        # Quantised operators are not core ATen, which the validity check requires.
        _check_ir_validity=False,
        _skip_dim_order=True,
        preserve_ops=[torch.ops.aten.linear.default],
    )
    return to_edge(exported, compile_config=config).exported_program()
