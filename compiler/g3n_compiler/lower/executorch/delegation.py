"""What XNNPACK really took: operators and floating-point operations inside and outside the delegates."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch

from g3n_compiler.lower.backend import Delegation


def measure(edge: Any, methods: tuple[str, ...], tokens: int) -> Delegation:
    """Delegation of an ``EdgeProgramManager``'s ``methods`` together, for calls of ``tokens`` tokens."""
    inside: list[torch.fx.Node] = []
    outside: list[torch.fx.Node] = []
    for method in methods:
        graph_module = edge.exported_program(method).graph_module
        outside += operators(graph_module)
        for delegate in delegates(graph_module):
            inside += operators(delegate)
    delegated = sum(flops(node, tokens) for node in inside)
    total = delegated + sum(flops(node, tokens) for node in outside)
    return Delegation(
        measured_with="the partitioned edge program",
        delegated_ops=len(inside),
        total_ops=len(inside) + len(outside),
        op_share=len(inside) / (len(inside) + len(outside)),
        flop_share=delegated / total,
        fallbacks=dict(sorted(Counter(operator_name(node) for node in outside).items())),
    )


def partitions(edge: Any, method: str) -> int:
    """Delegate calls of a method."""
    return len(list(delegates(edge.exported_program(method).graph_module)))


def delegates(graph_module: torch.fx.GraphModule) -> Iterator[torch.fx.GraphModule]:
    """The graphs that were given to a delegate, as they were before it compiled them."""
    for node in graph_module.graph.nodes:
        if node.op == "get_attr":
            lowered = getattr(graph_module, str(node.target))
            if hasattr(lowered, "original_module"):
                yield lowered.original_module.graph_module


def operators(graph_module: torch.fx.GraphModule) -> list[torch.fx.Node]:
    """Tensor operators of a graph: no sizes, no delegate calls, and nothing that takes a result apart."""
    return [n for n in graph_module.graph.nodes if n.op == "call_function" and hasattr(_schema_owner(n), "_schema")]


def _schema_owner(node: torch.fx.Node) -> Any:
    return None if "sym_size" in str(node.target) or "delegate" in str(node.target) else node.target


def operator_name(node: torch.fx.Node) -> str:
    """``linear`` of ``aten.linear.default``."""
    name = str(getattr(node.target, "__name__", node.target))
    parts = name.split(".")
    return parts[-2] if len(parts) > 1 else name


def flops(node: torch.fx.Node, tokens: int) -> int:
    """Two for each multiply-add of a product; one for each element of any other operator's result."""
    elements = _elements(node.meta["val"], tokens)
    name = operator_name(node)
    if name in ("linear", "bmm", "mm"):
        return 2 * elements * _size(node.args[0].meta["val"].shape[-1], tokens)  # type: ignore[union-attr]
    if name == "addmm":
        return 2 * elements * _size(node.args[1].meta["val"].shape[-1], tokens)  # type: ignore[union-attr]
    return elements


def _elements(value: Any, tokens: int) -> int:
    if isinstance(value, (tuple, list)):
        return sum(_elements(v, tokens) for v in value)
    return math.prod(_size(s, tokens) for s in value.shape) if isinstance(value, torch.Tensor) else 0


def _size(size: int | torch.SymInt, tokens: int) -> int:
    """A dimension with the one symbol of a program, its number of tokens, replaced."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, tokens)))
