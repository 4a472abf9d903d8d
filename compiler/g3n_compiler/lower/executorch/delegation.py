"""What XNNPACK really runs: operators and floating-point operations inside and outside the delegates."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from g3n_compiler.lower.artifact import Delegation


@dataclass(frozen=True)
class DelegateCall:
    """The operators of a delegate, and the sizes in one call of it by their symbols."""

    graph_module: torch.fx.GraphModule
    sizes: Mapping[Any, int]


def measure(edge: Any, calls: Mapping[str, Sequence[DelegateCall]], tokens: int) -> Delegation:
    """Delegation of an ``EdgeProgramManager``'s methods together; ``calls`` are the delegate calls of each method."""
    inside = outside = inside_flops = outside_flops = 0
    fallbacks: Counter[str] = Counter()
    for method, made in calls.items():
        for call in made:
            taken = operators(call.graph_module)
            inside += len(taken)
            inside_flops += sum(flops(node, call.sizes) for node in taken)
        left = operators(edge.exported_program(method).graph_module)
        outside += len(left)
        outside_flops += sum(flops(node, defaultdict(lambda: tokens)) for node in left)
        fallbacks.update(operator_name(node) for node in left)
    return Delegation(
        measured_with="the edge programs of the method and of its delegates",
        delegated_ops=inside,
        total_ops=inside + outside,
        op_share=inside / (inside + outside),
        flop_share=inside_flops / (inside_flops + outside_flops),
        fallbacks=dict(sorted(fallbacks.items())),
    )


def delegate_calls(edge: Any, method: str) -> int:
    """Delegate calls of a method."""
    nodes = edge.exported_program(method).graph_module.graph.nodes
    return sum("call_delegate" in str(node.target) for node in nodes)


def operators(graph_module: torch.fx.GraphModule) -> list[torch.fx.Node]:
    """Tensor operators of a graph, without sizes, delegate calls, and operators that only unpack a result."""
    return [n for n in graph_module.graph.nodes if n.op == "call_function" and hasattr(_schema_owner(n), "_schema")]


def _schema_owner(node: torch.fx.Node) -> Any:
    return None if "sym_size" in str(node.target) or "delegate" in str(node.target) else node.target


def operator_name(node: torch.fx.Node) -> str:
    """For example ``linear`` for ``aten.linear.default``."""
    name = str(getattr(node.target, "__name__", node.target))
    parts = name.split(".")
    return parts[-2] if len(parts) > 1 else name


def flops(node: torch.fx.Node, sizes: Mapping[Any, int]) -> int:
    """Two for each multiply-add of a product; one for each element of any other operator's result."""
    elements = _elements(node.meta["val"], sizes)
    name = operator_name(node)
    if name in ("linear", "bmm", "mm"):
        return 2 * elements * _size(node.args[0].meta["val"].shape[-1], sizes)  # type: ignore[union-attr]
    if name == "addmm":
        return 2 * elements * _size(node.args[1].meta["val"].shape[-1], sizes)  # type: ignore[union-attr]
    return elements


def _elements(value: Any, sizes: Mapping[Any, int]) -> int:
    if isinstance(value, (tuple, list)):
        return sum(_elements(v, sizes) for v in value)
    return math.prod(_size(s, sizes) for s in value.shape) if isinstance(value, torch.Tensor) else 0


def _size(size: int | torch.SymInt, sizes: Mapping[Any, int]) -> int:
    """A dimension with its symbols replaced."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs({symbol: sizes[symbol] for symbol in expression.free_symbols}))
