"""From a delegate's edge program to XNNPACK's blob, with convolutions and pools left channels-last.

This replaces ``XnnpackBackend.preprocess``, which would convert every map to channels-first order and back around each
of them. XNNPACK itself computes channels-last, and so do our modules, which write ``permute, convolution, permute``;
here the two permutes are removed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from g3n_compiler.errors import TargetError

TO_CHANNELS_FIRST, TO_CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]
CHANNELS_LAST = ("aten.convolution.default", "aten.avg_pool2d.default")
"""Operators whose visitors write channels-last shapes, whatever the graph says."""
BLIND = (
    *("aten.mul.Tensor", "aten.add.Tensor", "aten.sub.Tensor", "aten.sigmoid.default", "aten.relu.default"),
    *("aten.view_copy.default", "aten.clamp.default"),
)
"""Operators whose visitors do not look at the shapes of their inputs, so an input may have lost its permute."""
NOOPS = ("aten.expand_copy.default", "aten.clone.default", "aten._to_copy.default", "aten.alias_copy.default")


@dataclass(frozen=True)
class Blob:
    """XNNPACK's graph, and the data that it requests by name."""

    content: bytes
    data: dict[str, bytes]


def xnnpack_blob(edge: torch.export.ExportedProgram) -> Blob:
    """Serialise all of ``edge``.

    Raises:
        TargetError: XNNPACK does not take one of its operators.
    """
    from executorch.backends.xnnpack import xnnpack_preprocess as stock
    from executorch.backends.xnnpack._passes import XNNPACKPassManager
    from executorch.backends.xnnpack._passes.convert_to_linear import ConvertToLinearPass
    from executorch.backends.xnnpack.operators.node_visitor import NodeVisitor, get_node_visitors
    from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import ConstantDataOffset, XNNGraph
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import serialize_xnnpack_binary
    from executorch.exir._serialize._named_data_store import NamedDataStore

    program = XNNPACKPassManager(_unverified(edge), passes=[ConvertToLinearPass]).transform()
    graph = program.graph_module.graph
    drop_noops(graph)
    stay_channels_last(graph)
    external = stock.generate_node_to_external_map(program, program.graph_module)
    xnn = XNNGraph("0", [], [], len(external), [], [], [ConstantDataOffset(0, 0)])
    ids: dict[fx.Node, int] = {}
    store = NamedDataStore()
    visitors = get_node_visitors(program, external, store)
    inputs = NodeVisitor(program, external, store)
    for node in external:
        if node.op == "placeholder":
            # Before any visitor does, because a visitor may assume another order of the axes.
            inputs.define_tensor(node, xnn, ids)
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        name = _name(node)
        if name not in visitors:
            raise TargetError(f"XNNPACK's serializer takes no {name} of {node.meta.get('val')}: write it differently")
        visitors[name].define_node(node, xnn, ids, stock.DEFAULT_DEBUG_HANDLE)
    held = store.get_named_data_store_output()
    data = {name: held.buffers[entry.buffer_index] for name, entry in held.pte_data.items()}
    return Blob(serialize_xnnpack_binary(xnn, bytearray()), data)


def drop_noops(graph: fx.Graph) -> None:
    """Remove copies, and expansions to the size that a tensor already has.

    An integer in an expression is a constant and a copy of it as a float; the serializer makes every constant a float
    anyway.
    """
    for node in list(graph.nodes):
        if node.op == "call_function" and _name(node) in NOOPS:
            source = node.args[0]
            before, after = source.meta["val"], node.meta["val"]
            if before.shape == after.shape and (before.dtype == after.dtype or source.op == "placeholder"):
                node.replace_all_uses_with(source)
                graph.erase_node(node)


def stay_channels_last(graph: fx.Graph) -> None:
    """Remove the permutes around operators that XNNPACK computes channels-last.

    Raises:
        TargetError: one of them is not written as ``permute, operator, permute``.
    """
    for node in list(graph.nodes):
        if node.op != "call_function" or _name(node) not in CHANNELS_LAST:
            continue
        before, afters = node.args[0], list(node.users)
        if not _permutes(before, TO_CHANNELS_FIRST) or not all(_permutes(n, TO_CHANNELS_LAST) for n in afters):
            raise TargetError(f"{_name(node)} stands without its two permutes: write it through the dialect")
        node.replace_input_with(before, before.args[0])
        for after in afters:
            if sighted := [n for n in after.users if _name(n) not in BLIND]:
                raise TargetError(f"{_name(sighted[0])} reads {_name(node)} directly: put an element-wise one between")
            after.replace_all_uses_with(node)
            graph.erase_node(after)
        if not before.users:
            graph.erase_node(before)


def _permutes(node: Any, order: list[int]) -> bool:
    if not isinstance(node, fx.Node) or _name(node) != "aten.permute_copy.default":
        return False
    axes: Any = node.args[1]
    return list(axes) == order


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _unverified(edge: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """``edge`` without the check that it contains only core ATen, which its linear layers would fail."""
    from executorch.backends.xnnpack.utils.configs import get_xnnpack_edge_compile_config
    from executorch.exir.verification.verifier import EXIREdgeDialectVerifier

    verifier = EXIREdgeDialectVerifier(edge_compile_config=get_xnnpack_edge_compile_config(), class_only=True)
    return torch.export.ExportedProgram(
        root=edge.graph_module,
        graph=edge.graph,
        graph_signature=edge.graph_signature,
        state_dict=edge.state_dict,
        range_constraints=edge.range_constraints,
        module_call_graph=edge.module_call_graph,
        example_inputs=edge.example_inputs,
        constants=edge.constants,
        verifiers=[verifier],
    )
