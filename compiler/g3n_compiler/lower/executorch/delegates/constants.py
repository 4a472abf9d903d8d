"""Constants that XNNPACK does not pack, as inputs of a delegate instead of data that it requests.

XNNPACK copies what it packs, and reads everything else, such as the gains of a norm, where it lies for as long as it
runs. With the weights cache of XNNPACK's backend, which ExecuTorch's builds for Android and Apple switch on, executorch
1.5.1 frees that memory once a delegate is made: mapped programs crash, and programs in memory answer wrongly without an
error (https://github.com/pytorch/executorch/pull/22779). So these constants belong to the program, which keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument

PACKED = {"aten.linear.default": (1, 2), "aten.convolution.default": (1, 2), "aten.addmm.default": (0, 2)}
"""Operators that pack a constant, and where it stands among their arguments."""
QUANTISED = "quantized_decomposed.dequantize"
"""Begins the names of operators whose constants are parts of a weight that is packed."""


def lift_unpacked(program: torch.export.ExportedProgram) -> tuple[torch.export.ExportedProgram, list[Tensor]]:
    """``program`` with the constants that XNNPACK does not pack as inputs after its own, and these constants."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    specs = program.graph_signature.input_specs
    lifted = [spec for spec in specs if spec.kind is not InputKind.USER_INPUT and not _packed(nodes[spec.arg.name])]
    if not lifted:
        return program, []
    values = [_value(program, spec) for spec in lifted]
    last = nodes[specs[-1].arg.name]
    for spec in lifted:
        node = nodes[spec.arg.name]
        # An integer in an expression is a float to XNNPACK, which makes one of a constant but not of an input.
        node.meta["val"] = node.meta["val"].to(torch.float32)
        if node is not last:
            last.append(node)
            last = node
    own = [spec for spec in specs if spec not in lifted]
    inputs = [InputSpec(InputKind.USER_INPUT, TensorArgument(spec.arg.name), None) for spec in lifted]
    program.graph_signature.input_specs = [*own, *inputs]
    for spec in lifted:
        program.state_dict.pop(str(spec.target), None)
        program.constants.pop(str(spec.target), None)
    program.graph.lint()
    program.graph_module.recompile()
    return program, values


def _packed(node: fx.Node) -> bool:
    """Whether everything that reads a constant packs it."""
    for user in node.users:
        name = str(getattr(user.target, "__name__", user.target))
        if name.startswith(QUANTISED):
            continue
        if not any(i < len(user.args) and user.args[i] is node for i in PACKED.get(name, ())):
            return False
    return True


def _value(program: torch.export.ExportedProgram, spec: InputSpec) -> Tensor:
    found = program.state_dict.get(str(spec.target))
    value = program.constants[str(spec.target)] if found is None else found
    assert isinstance(value, Tensor)
    return value.detach().to(torch.float32)


class WithConstants(nn.Module):
    """``delegate``, whose inputs after the caller's are ``constants``."""

    def __init__(self, delegate: nn.Module, constants: Sequence[Tensor]) -> None:
        super().__init__()
        self.delegate = delegate
        self._names = [f"constant_{i}" for i in range(len(constants))]
        for name, constant in zip(self._names, constants, strict=True):
            self.register_buffer(name, constant)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = self.delegate(*inputs, *(self.get_buffer(name) for name in self._names))
        return outputs
