"""Delegates of the decoder's modules, whose numbers of tokens and of cache slots are only known at run time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from g3n_compiler.lower.executorch.delegates.constants import lift_unpacked
from g3n_compiler.lower.executorch.delegates.template import (
    BACKEND,
    SameSignature,
    StandIns,
    Template,
    Templates,
    edge_program,
    other_data,
)
from g3n_compiler.lower.executorch.delegates.text import DecoderPiece, LayerBody
from g3n_compiler.lower.executorch.delegates.weight_store import StoredWeights
from g3n_compiler.lower.executorch.weights import XnnpackWeights
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.models.weights import WeightSpec
from g3n_compiler.quantize.recipe import Recipe

EXAMPLE_TOKENS, EXAMPLE_SLOTS = 6, 40
"""Sizes of the example inputs: any numbers but 0 and 1, which tracing would treat as constants."""
ONE_PASS = "dqlinear_partitioner"
"""With this compile spec, XNNPACK's backend runs one of its 17 passes; the others find nothing to do in our modules,
and each would retrace the graph."""


class TextTemplates:
    """Makes the delegates of modules over ``stored`` weights; each kind is lowered when it is first requested.

    Args:
        chunk: the most tokens in one call.
        slots: the most slots of a cache.
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
        self._config, self._specs = config, specs
        self._templates = Templates(recipe, stored)
        self._chunk, self._slots = chunk, slots

    def __call__(self, kind: type[DecoderPiece], layer: int) -> nn.Module:
        """The delegate of a kind of module at ``layer``."""
        return self.get(kind, layer).delegate(self._templates.stored, f"layers.{layer}.")

    def get(self, kind: type[DecoderPiece], layer: int) -> Template:
        """The template of a kind of module at ``layer``."""
        specs = {name: self._specs[name] for name in kind.weight_names(self._specs, self._config, layer)}
        what = (kind, self._config.sparsity[layer] if kind is LayerBody else None)
        return self._templates.get(what, specs, f"layers.{layer}.", lambda: self._lower(kind, layer, specs))

    @property
    def constants(self) -> dict[str, bytes]:
        """Data, by name, other than weights."""
        return self._templates.constants

    def _lower(self, kind: type[DecoderPiece], layer: int, specs: Mapping[str, WeightSpec]) -> Template:
        from executorch.exir.backend.backend_api import to_backend
        from executorch.exir.backend.compile_spec_schema import CompileSpec

        stand_ins = StandIns()
        piece = kind(self._config, XnnpackWeights(specs, self._templates.recipe, stand_ins), layer)
        edge, lifted = lift_unpacked(edge_program(self._export(piece, piece)))
        compile_specs = (CompileSpec(ONE_PASS, b""),)
        lowered: Any = to_backend(BACKEND, edge, list(compile_specs))
        store = lowered.named_data_store_output
        held = {name: store.buffers[entry.buffer_index] for name, entry in store.pte_data.items()}
        blob: bytes = lowered.processed_bytes
        data = other_data(f"{kind.__name__} of layer {layer}", stand_ins, blob, held, lifted)

        def outputs(*inputs: Tensor) -> tuple[Tensor, ...]:
            return piece.outputs(*inputs[: len(inputs) - len(lifted)])

        shape, symbols = self._export(piece, SameSignature(outputs), lifted), _symbols(edge, piece)
        prefix = f"layers.{layer}."
        return Template(prefix, blob, stand_ins.names, data, shape, edge.graph_module, symbols, compile_specs, lifted)

    def _export(
        self, piece: DecoderPiece, module: nn.Module, lifted: Sequence[Tensor] = ()
    ) -> torch.export.ExportedProgram:
        tokens = torch.export.Dim("tokens", min=1, max=self._chunk)
        slots = torch.export.Dim("slots", min=2, max=self._slots)
        inputs = piece.example(min(EXAMPLE_TOKENS, self._chunk), min(EXAMPLE_SLOTS, self._slots))
        shapes = ((*piece.axes(tokens, slots), *({} for _ in lifted)),)
        with torch.no_grad():
            return torch.export.export(module.eval(), (*inputs, *lifted), dynamic_shapes=shapes, strict=False)


def _symbols(program: torch.export.ExportedProgram, piece: DecoderPiece) -> dict[Any, str]:
    """``tokens`` and ``slots``, by their symbols in an exported module."""
    inputs = [n for n in program.graph.nodes if n.name in program.graph_signature.user_inputs]
    out: dict[Any, str] = {}
    # Constants that were lifted come after the module's own inputs.
    for node, axes in zip(inputs, piece.axes("tokens", "slots"), strict=False):
        for axis, name in axes.items():
            if isinstance(size := node.meta["val"].shape[axis], torch.SymInt) and name in ("tokens", "slots"):
                out[size.node.expr] = name
    return out
