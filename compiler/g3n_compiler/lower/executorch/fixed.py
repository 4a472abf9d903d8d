"""Pieces of fixed shapes, of which the towers are made: each kind is lowered once, as :mod:`.templates` does.

A piece is some arithmetic over tensors of fixed shapes that XNNPACK takes whole. Pieces that differ in nothing but
which weights they name share a lowering, so its time and memory do not grow with the tower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from g3n_compiler.errors import ParityError
from g3n_compiler.lower.backend import Delegation
from g3n_compiler.lower.executorch.delegation import DelegateCall, measure
from g3n_compiler.lower.executorch.preprocess import xnnpack_blob
from g3n_compiler.lower.executorch.program import serialize, to_edge
from g3n_compiler.lower.executorch.stored import StoredWeights
from g3n_compiler.lower.executorch.templates import BACKEND, StandIns
from g3n_compiler.lower.executorch.weights import XnnpackWeights
from g3n_compiler.modules.weights import WeightSpec
from g3n_compiler.quantize.recipe import Recipe

Build = Callable[[XnnpackWeights], nn.Module]


class TowerOps(nn.Module):
    """What towers ask of a dialect, in the operators that XNNPACK takes; constants are buffers, as it wants them.

    Args:
        means: sizes that means are taken over.
    """

    def __init__(self, means: Sequence[int]) -> None:
        super().__init__()
        for size in sorted(set(means)):
            self.register_buffer(f"mean_{size}", torch.full((1, size), 1 / size))

    def mean(self, x: Tensor) -> Tensor:
        """Mean over the last dimension, kept, as a product: XNNPACK takes no other mean of it."""
        return F.linear(x, self.get_buffer(f"mean_{x.shape[-1]}"))


@dataclass(frozen=True)
class TowerPiece:
    """One delegate: what it computes, and over which weights.

    ``kind`` names all that the arithmetic depends on apart from the shapes of weights and inputs.
    ``prefix`` is what the names of the piece's own weights begin with.
    """

    kind: str
    prefix: str
    specs: Mapping[str, WeightSpec]
    build: Build
    inputs: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class _Template:
    prefix: str
    blob: bytes
    names: dict[tuple[str, str], str]
    constants: dict[str, bytes]
    shape: torch.export.ExportedProgram
    operators: torch.fx.GraphModule


class TowerTemplates:
    """Makes the delegates of pieces over ``stored`` weights, lowering each kind as it is first asked for."""

    def __init__(self, recipe: Recipe, stored: StoredWeights) -> None:
        self._recipe, self._stored = recipe, stored
        self._made: dict[tuple[Any, ...], _Template] = {}

    def __call__(self, piece: TowerPiece) -> nn.Module:
        """The delegate of ``piece``."""
        from executorch.exir.lowered_backend_module import LoweredBackendModule

        template = self._get(piece)
        blob = template.blob
        for (weight, part), name in template.names.items():
            if weight.startswith(template.prefix):
                weight = piece.prefix + weight.removeprefix(template.prefix)
            # Both names have the same length, and a hash is nowhere else in the blob.
            blob = blob.replace(name.encode(), self._stored.names[weight, part].encode())
        return LoweredBackendModule(template.shape, BACKEND, blob, [])

    def call(self, piece: TowerPiece) -> DelegateCall:
        """What the delegate of ``piece`` took, to be measured."""
        return DelegateCall(self._get(piece).operators, {})

    @property
    def constants(self) -> dict[str, bytes]:
        """Data by name that is not a weight's."""
        return {name: data for template in self._made.values() for name, data in template.constants.items()}

    def _get(self, piece: TowerPiece) -> _Template:
        weights = tuple(
            (name.removeprefix(piece.prefix), spec.shape, self._recipe.scheme(spec))
            for name, spec in piece.specs.items()
        )
        key = (piece.kind, weights, piece.inputs)
        if key not in self._made:
            self._made[key] = self._lower(piece)
        return self._made[key]

    def _lower(self, piece: TowerPiece) -> _Template:
        from executorch.exir import EdgeCompileConfig
        from executorch.exir import to_edge as lower_to_edge

        stand_ins = StandIns()
        module = piece.build(XnnpackWeights(piece.specs, self._recipe, stand_ins))
        config = EdgeCompileConfig(
            # Quantised operators are not core ATen, which the validity check insists on.
            _check_ir_validity=False,
            _skip_dim_order=True,
            preserve_ops=[torch.ops.aten.linear.default],
        )
        exported = export_fixed(module, piece.inputs)
        edge = lower_to_edge(exported, compile_config=config).exported_program()
        made = xnnpack_blob(edge)
        held = dict(made.data)
        for (weight, part), name in stand_ins.names.items():
            if name not in held or made.content.count(name.encode()) != 1:
                raise ParityError(
                    f"{piece.kind}: part {part!r} of {weight!r} is not once in what XNNPACK's serializer made of it: "
                    "the pinned ExecuTorch version names weights in another way"
                )
            del held[name]
        outputs = [tuple(n.meta["val"].shape) for n in exported.graph.output_node().args[0]]
        shape = export_fixed(_Shape(outputs), piece.inputs)
        return _Template(piece.prefix, made.content, stand_ins.names, held, shape, edge.graph_module)


class _Shape(nn.Module):
    """Has a piece's inputs and outputs, and does nothing."""

    def __init__(self, outputs: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self._outputs = outputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(inputs[0].new_empty(shape) for shape in self._outputs)


def export_fixed(module: nn.Module, inputs: Sequence[tuple[int, ...]]) -> torch.export.ExportedProgram:
    """Trace ``module`` on float32 inputs of these shapes."""
    with torch.no_grad():
        return torch.export.export(module.eval(), tuple(torch.zeros(shape) for shape in inputs), strict=False)


@dataclass(frozen=True)
class TowerMethod:
    """A method of a tower's program: its module over delegates, its inputs' shapes, and the pieces that it calls."""

    module: nn.Module
    inputs: tuple[tuple[int, ...], ...]
    pieces: Sequence[TowerPiece]
    measured: bool = True


def write_program(
    methods: Mapping[str, TowerMethod],
    templates: TowerTemplates,
    stored: StoredWeights,
    constants: Mapping[str, Any],
    path: Path,
) -> Delegation:
    """Write ``methods`` as a program of their own over one copy of the weights; returns what was delegated.

    Args:
        constants: methods without inputs.
    """
    programs = {name: export_fixed(method.module, method.inputs) for name, method in methods.items()}
    edge = to_edge(programs, constants)
    calls = {name: [templates.call(p) for p in m.pieces] for name, m in methods.items() if m.measured}
    # Before serialize, which turns the graphs into ones for the runtime.
    delegation = measure(edge, calls, 1)
    program = serialize(edge, {}, path.stem, {**stored.data, **templates.constants})
    with path.open("wb") as file:
        program.write_to_file(file)
    return delegation
