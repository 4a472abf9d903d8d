"""Lowers each kind of piece once, over stand-ins for its weights, and makes a layer's delegate by naming its weights.

XNNPACK's blob holds no weight, only each one's name (the SHA-256 of its bytes). Layers of the same shapes and schemes
have the same blob but for those names, so neither the time nor the memory of a lowering grows with the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from g3n_compiler.checkpoint.config import TextConfig
from g3n_compiler.errors import ParityError
from g3n_compiler.lower.executorch.pieces import Block, Piece
from g3n_compiler.lower.executorch.stored import StoredWeights, data_name, encode
from g3n_compiler.lower.executorch.weights import XnnpackWeights, part_shapes
from g3n_compiler.modules.weights import WeightSpec
from g3n_compiler.quantize.recipe import Recipe, Scheme

EXAMPLE_TOKENS, EXAMPLE_SLOTS = 6, 40
"""Sizes of the example inputs; any numbers but 0 and 1, which tracing would take for constants."""
BACKEND = "XnnpackBackend"
ONE_PASS = "dqlinear_partitioner"
"""With this compile spec XNNPACK's backend runs one of its 17 passes; the others find nothing to do in our pieces, and
each costs a retrace of the graph."""


@dataclass(frozen=True)
class Template:
    """A kind of piece, lowered for one of its layers."""

    layer: int
    blob: bytes
    names: dict[tuple[str, str], str]
    """What the blob calls each part of each weight."""
    constants: dict[str, bytes]
    """The other data that the blob asks for."""
    shape: torch.export.ExportedProgram
    """A program of the same signature that does nothing: it stands for the blob when the methods are traced."""
    operators: torch.fx.GraphModule
    """What the delegate took."""
    symbols: dict[Any, str]
    """``tokens`` and ``slots`` by what they are called in ``operators``."""

    def delegate(self, stored: StoredWeights, layer: int) -> nn.Module:
        """A delegate for ``layer``'s weights."""
        from executorch.exir.lowered_backend_module import LoweredBackendModule

        blob, own = self.blob, f"layers.{self.layer}."
        for (weight, part), name in self.names.items():
            if weight.startswith(own):
                weight = f"layers.{layer}.{weight.removeprefix(own)}"
            # Both names have the same length, and a hash is nowhere else in the blob.
            blob = blob.replace(name.encode(), stored.names[weight, part].encode())
        return LoweredBackendModule(self.shape, BACKEND, blob, _compile_specs())


class Templates:
    """Lowers kinds of pieces as they are asked for, and makes their delegates.

    Args:
        chunk: most tokens of one call.
        slots: most slots of a cache.
    """

    def __init__(
        self,
        config: TextConfig,
        specs: Mapping[str, WeightSpec],
        recipe: Recipe,
        stored: StoredWeights,
        chunk: int,
        slots: int,
    ) -> None:
        self._config, self._specs, self._recipe, self._stored = config, specs, recipe, stored
        self._chunk, self._slots = chunk, slots
        self._made: dict[tuple[Any, ...], Template] = {}

    def __call__(self, kind: type[Piece], layer: int) -> nn.Module:
        """The delegate of a piece at ``layer``."""
        return self.get(kind, layer).delegate(self._stored, layer)

    def get(self, kind: type[Piece], layer: int) -> Template:
        """The template of a piece at ``layer``."""
        names = kind.weight_names(self._specs, self._config, layer)
        weights = tuple(
            (name.removeprefix(f"layers.{layer}."), self._specs[name].shape, self._recipe.scheme(self._specs[name]))
            for name in names
        )
        key = (kind, weights, self._config.sparsity[layer] if kind is Block else None)
        if key not in self._made:
            specs = {name: self._specs[name] for name in names}
            self._made[key] = self._lower(kind, layer, specs)
        return self._made[key]

    @property
    def constants(self) -> dict[str, bytes]:
        """Data by name that is not a weight's."""
        return {name: data for template in self._made.values() for name, data in template.constants.items()}

    def _lower(self, kind: type[Piece], layer: int, specs: Mapping[str, WeightSpec]) -> Template:
        from executorch.exir import EdgeCompileConfig, to_edge
        from executorch.exir.backend.backend_api import to_backend

        stand_ins = StandIns()
        piece = kind(self._config, XnnpackWeights(specs, self._recipe, stand_ins), layer)
        config = EdgeCompileConfig(
            # Quantised operators are not core ATen, which the validity check insists on.
            _check_ir_validity=False,
            _skip_dim_order=True,
            preserve_ops=[torch.ops.aten.linear.default],
        )
        edge = to_edge(self._export(piece, piece), compile_config=config).exported_program()
        lowered: Any = to_backend(BACKEND, edge, _compile_specs())
        data = lowered.named_data_store_output
        held = {name: data.buffers[entry.buffer_index] for name, entry in data.pte_data.items()}
        blob: bytes = lowered.processed_bytes
        for (weight, part), name in stand_ins.names.items():
            if name not in held or blob.count(name.encode()) != 1:
                raise ParityError(
                    f"{kind.__name__} of layer {layer}: part {part!r} of {weight!r} is not once in what XNNPACK's "
                    "backend made of it: the pinned ExecuTorch version names weights in another way"
                )
            del held[name]
        shape = self._export(piece, _Shape(piece))
        return Template(layer, blob, stand_ins.names, held, shape, edge.graph_module, _symbols(edge, piece))

    def _export(self, piece: Piece, module: nn.Module) -> torch.export.ExportedProgram:
        tokens = torch.export.Dim("tokens", min=1, max=self._chunk)
        slots = torch.export.Dim("slots", min=2, max=self._slots)
        inputs = piece.example(min(EXAMPLE_TOKENS, self._chunk), min(EXAMPLE_SLOTS, self._slots))
        shapes = (piece.axes(tokens, slots),)
        with torch.no_grad():
            return torch.export.export(module.eval(), inputs, dynamic_shapes=shapes, strict=False)


class _Shape(nn.Module):
    """Has a piece's inputs and outputs, and does nothing."""

    def __init__(self, piece: Piece) -> None:
        super().__init__()
        self._outputs = piece.outputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self._outputs(*inputs)


class StandIns:
    """Parts of the right shapes and of no meaning, each with bytes of its own, by whose hash it is found again."""

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


def _symbols(program: torch.export.ExportedProgram, piece: Piece) -> dict[Any, str]:
    """``tokens`` and ``slots`` by their symbols in an exported piece."""
    inputs = [n for n in program.graph.nodes if n.name in program.graph_signature.user_inputs]
    out: dict[Any, str] = {}
    for node, axes in zip(inputs, piece.axes("tokens", "slots"), strict=True):
        for axis, name in axes.items():
            if isinstance(size := node.meta["val"].shape[axis], torch.SymInt) and name in ("tokens", "slots"):
                out[size.node.expr] = name
    return out


def _compile_specs() -> list[Any]:
    from executorch.exir.backend.compile_spec_schema import CompileSpec

    return [CompileSpec(ONE_PASS, b"")]
