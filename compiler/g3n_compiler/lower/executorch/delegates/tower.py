"""Delegates of fixed shapes, of which the towers consist; each kind is lowered once, see :mod:`.template`.

A :class:`TowerPiece` is arithmetic over tensors of fixed shapes that XNNPACK takes whole. Pieces that differ only in
the names of their weights share a lowering, so its time and memory do not grow with the tower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from g3n_compiler.lower.artifact import Delegation
from g3n_compiler.lower.executorch.delegates.constants import lift_unpacked
from g3n_compiler.lower.executorch.delegates.template import (
    SameSignature,
    StandIns,
    Template,
    Templates,
    edge_program,
    other_data,
)
from g3n_compiler.lower.executorch.delegates.weight_store import StoredWeights
from g3n_compiler.lower.executorch.delegates.xnnpack import xnnpack_blob
from g3n_compiler.lower.executorch.delegation import DelegateCall, measure
from g3n_compiler.lower.executorch.program import serialize, to_edge
from g3n_compiler.lower.executorch.weights import XnnpackWeights
from g3n_compiler.models.weights import WeightSpec
from g3n_compiler.quantize.recipe import Recipe

Build = Callable[[XnnpackWeights], nn.Module]


class TowerOps(nn.Module):
    """What towers need of a dialect, in operators that XNNPACK takes; constants are buffers, as it requires.

    Args:
        means: sizes of the dimensions that means are taken over.
    """

    def __init__(self, means: Sequence[int]) -> None:
        super().__init__()
        for size in sorted(set(means)):
            self.register_buffer(f"mean_{size}", torch.full((1, size), 1 / size))

    def mean(self, x: Tensor) -> Tensor:
        """Mean over the last dimension, kept, as a product: XNNPACK takes no other form of it."""
        return F.linear(x, self.get_buffer(f"mean_{x.shape[-1]}"))


@dataclass(frozen=True)
class TowerPiece:
    """One delegate: what it computes, and over which weights.

    ``kind`` identifies everything that the arithmetic depends on, except the shapes of weights and inputs. ``prefix``
    is the common prefix of its weights' names.
    """

    kind: str
    prefix: str
    specs: Mapping[str, WeightSpec]
    build: Build
    inputs: tuple[tuple[int, ...], ...]


class TowerTemplates:
    """Makes the delegates of pieces over ``stored`` weights; each kind is lowered when it is first requested."""

    def __init__(self, recipe: Recipe, stored: StoredWeights) -> None:
        self._templates = Templates(recipe, stored)

    def __call__(self, piece: TowerPiece) -> nn.Module:
        """The delegate of ``piece``."""
        return self._get(piece).delegate(self._templates.stored, piece.prefix)

    def call(self, piece: TowerPiece) -> DelegateCall:
        """The operators of the delegate of ``piece``, for measuring."""
        return DelegateCall(self._get(piece).operators, {})

    @property
    def constants(self) -> dict[str, bytes]:
        """Data, by name, other than weights."""
        return self._templates.constants

    def _get(self, piece: TowerPiece) -> Template:
        kind = (piece.kind, piece.inputs)
        return self._templates.get(kind, piece.specs, piece.prefix, lambda: self._lower(piece))

    def _lower(self, piece: TowerPiece) -> Template:
        stand_ins = StandIns()
        module = piece.build(XnnpackWeights(piece.specs, self._templates.recipe, stand_ins))
        exported = export_static(module, piece.inputs)
        edge, lifted = lift_unpacked(edge_program(exported))
        made = xnnpack_blob(edge)
        data = other_data(piece.kind, stand_ins, made.content, made.data, lifted)
        shapes = [tuple(n.meta["val"].shape) for n in exported.graph.output_node().args[0]]

        def outputs(*inputs: Tensor) -> tuple[Tensor, ...]:
            return tuple(inputs[0].new_empty(shape) for shape in shapes)

        shape = export_static(SameSignature(outputs), (*piece.inputs, *(tuple(tensor.shape) for tensor in lifted)))
        return Template(piece.prefix, made.content, stand_ins.names, data, shape, edge.graph_module, lifted=lifted)


def export_static(module: nn.Module, inputs: Sequence[tuple[int, ...]]) -> torch.export.ExportedProgram:
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
    programs = {name: export_static(method.module, method.inputs) for name, method in methods.items()}
    edge = to_edge(programs, constants)
    calls = {name: [templates.call(p) for p in m.pieces] for name, m in methods.items() if m.measured}
    # Before serialize, which converts the graphs for the runtime.
    delegation = measure(edge, calls, 1)
    program = serialize(edge, {}, path.stem, {**stored.data, **templates.constants})
    with path.open("wb") as file:
        program.write_to_file(file)
    return delegation
