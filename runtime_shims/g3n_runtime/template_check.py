"""Chat templates that may be hostile: what one may do is listed, so that no conversation makes it run away.

An engine renders a template without limits of its own. So a template is refused unless its syntax alone shows that
it ends and that its output grows with the conversation only: no products of texts, no recursion, a known set of
filters, tests, methods and functions, few loops inside each other, and no text that doubles from one turn to the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from jinja2 import TemplateError, nodes

from g3n_runtime.errors import G3nError
from g3n_runtime.template_environment import template_environment

MAX_TEMPLATE_BYTES = 256 << 10
MAX_LOOPS = 4
"""Loops inside each other, through macros too; Gemma's template has two."""
MAX_ASSIGNMENTS = 2000
MAX_NUMBER = 10_000
FUNCTIONS = frozenset({"raise_exception", "namespace", "range", "strftime_now", "dict"})
FILTERS = frozenset(
    {
        "abs", "bool", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "int",
        "items", "join", "keys", "last", "length", "list", "lower", "lstrip", "map", "max", "min", "reject",
        "rejectattr", "replace", "reverse", "round", "rstrip", "safe", "select", "selectattr", "sort", "split",
        "string", "strip", "sum", "title", "tojson", "trim", "unique", "upper", "values",
    }
)  # fmt: skip
METHODS = frozenset(
    {
        "append", "capitalize", "count", "endswith", "find", "get", "items", "join", "keys", "lower", "lstrip",
        "replace", "rsplit", "rstrip", "split", "startswith", "strip", "title", "upper", "values",
    }
)  # fmt: skip
_MULTIPLY = frozenset({"join", "replace", "tojson", "escape", "e", "string", "map", "append"})
"""What may make its input longer, so that it must not be done to a text again and again."""
_NUMBERS = frozenset({"length", "count", "int", "float", "abs", "round", "bool", "find", "startswith", "endswith"})
_ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.List, nodes.Tuple, nodes.Dict,
    nodes.Pair, nodes.Keyword, nodes.If, nodes.For, nodes.Assign, nodes.AssignBlock, nodes.NSRef, nodes.Getattr,
    nodes.Getitem, nodes.Slice, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos,
    nodes.Add, nodes.Sub, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Concat, nodes.CondExpr, nodes.Filter, nodes.Test,
    nodes.Call, nodes.Macro, nodes.Break, nodes.Continue, nodes.With, nodes.Scope,
)  # fmt: skip

Uses = dict[str, int]
"""How often a value may hold each variable."""


def check_template(text: str, error: type[G3nError]) -> None:
    """Raise ``error`` unless ``text`` is a chat template whose cost is bounded by the conversation."""
    if (why := _refusal(text)) is not None:
        raise error(why)


@lru_cache(maxsize=8)
def _refusal(text: str) -> str | None:
    """Why a template may not be rendered; a compile renders one for many conversations."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_TEMPLATE_BYTES:
        return f"the chat template has more than {MAX_TEMPLATE_BYTES} bytes"
    try:
        tree = template_environment().parse(text)
        _Check(tree).run()
    except TemplateError as reason:
        return f"the chat template is not Jinja that can be read ({str(reason)[:200]})"
    except RecursionError:
        return "the chat template is nested too deeply"
    except ValueError as reason:
        return f"the chat template may not be used: {reason}"
    return None


class _Check:
    """Walks a template; raises ``ValueError`` for what is not allowed."""

    def __init__(self, tree: nodes.Template) -> None:
        self._tree = tree
        self._macros: dict[str, int] = {}
        """Loops inside each macro that was defined so far."""
        self._parameters: dict[str, list[str]] = {}
        self._flows: list[tuple[str, Uses]] = []

    def run(self) -> None:
        for node in self._tree.find_all(nodes.Node):
            self._allow(node)
        self._visit(self._tree.body, 0)
        self._check_growth()

    def _allow(self, node: nodes.Node) -> None:
        if not isinstance(node, _ALLOWED):
            raise ValueError(f"it has a {type(node).__name__.lower()} in line {node.lineno}, which no chat needs")
        if isinstance(node, nodes.Const) and isinstance(node.value, int | float) and abs(node.value) > MAX_NUMBER:
            raise ValueError(f"it has the number {str(node.value)[:20]} in line {node.lineno}")
        if isinstance(node, nodes.Filter) and node.name not in FILTERS:
            raise ValueError(f"it has the filter {node.name[:40]!r} in line {node.lineno}")
        if isinstance(node, nodes.Filter) and node.name == "map" and node.args:
            given = node.args[0]
            if not isinstance(given, nodes.Const) or given.value not in FILTERS - {"map"}:
                raise ValueError(f"it maps by an unknown filter in line {node.lineno}")
        if isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
            raise ValueError(f"it looks at {node.attr[:40]!r} in line {node.lineno}")
        if isinstance(node, nodes.For) and node.recursive:
            raise ValueError(f"it has a recursive loop in line {node.lineno}")
        if isinstance(node, nodes.Mod) and isinstance(node.left, nodes.Const) and isinstance(node.left.value, str):
            raise ValueError(f"it formats a text by % in line {node.lineno}")
        if isinstance(node, nodes.Call):
            method = isinstance(node.node, nodes.Getattr) and node.node.attr in METHODS
            function = isinstance(node.node, nodes.Name)
            if not (method or function) or node.dyn_args is not None or node.dyn_kwargs is not None:
                raise ValueError(f"it calls something unknown in line {node.lineno}")
        if isinstance(node, nodes.Filter) and (node.dyn_args is not None or node.dyn_kwargs is not None):
            raise ValueError(f"it calls a filter with unknown arguments in line {node.lineno}")

    def _visit(self, body: Sequence[nodes.Node], depth: int) -> int:
        """Walk statements in order; returns the most loops inside each other, those of called macros too."""
        deepest = depth
        for node in body:
            inner = depth
            if isinstance(node, nodes.Macro):
                self._flows.append((f"{node.name}()", self._written(node.body)))
                loops = self._visit(node.body, 0)
                self._parameters[node.name] = [a.name for a in node.args]
                self._macros[node.name] = loops  # known only now, so that it cannot call itself
                continue
            if isinstance(node, nodes.For):
                inner = depth + 1
                for name in self._targets(node.target):
                    self._flows.append((name, self._uses(node.iter)))
            elif isinstance(node, nodes.Assign):
                for name in self._targets(node.target):
                    self._flows.append((name, self._uses(node.node)))
            elif isinstance(node, nodes.AssignBlock):
                for name in self._targets(node.target):
                    self._flows.append((name, self._written(node.body)))
            elif isinstance(node, nodes.With):
                for target, value in zip(node.targets, node.values, strict=True):
                    for name in self._targets(target):
                        self._flows.append((name, self._uses(value)))
            deepest = max(deepest, inner)
            for child in node.iter_child_nodes():
                if isinstance(child, nodes.Expr):
                    deepest = max(deepest, self._calls(child, inner))
                else:
                    deepest = max(deepest, self._visit([child], inner))
        if deepest > MAX_LOOPS or len(self._flows) > MAX_ASSIGNMENTS:
            raise ValueError(f"it has more than {MAX_LOOPS} loops inside each other or {MAX_ASSIGNMENTS} assignments")
        return deepest

    def _calls(self, expression: nodes.Expr, depth: int) -> int:
        deepest = depth
        found: Iterator[nodes.Call] = expression.find_all(nodes.Call)
        own = [expression] if isinstance(expression, nodes.Call) else []
        for call in (*own, *found):
            if isinstance(call.node, nodes.Name) and call.node.name not in FUNCTIONS:
                if call.node.name not in self._macros:
                    raise ValueError(f"it calls {call.node.name[:40]!r} in line {call.lineno} before it is defined")
                deepest = max(deepest, depth + self._macros[call.node.name])
                for argument in (*call.args, *(keyword.value for keyword in call.kwargs)):
                    self._flows += [(name, self._uses(argument)) for name in self._parameters[call.node.name]]
        return deepest

    def _targets(self, target: nodes.Node) -> list[str]:
        if isinstance(target, nodes.Name):
            return [target.name]
        if isinstance(target, nodes.NSRef):
            return [f"{target.name}.{target.attr}"]
        return [name for child in target.iter_child_nodes() for name in self._targets(child)]

    def _written(self, body: Sequence[nodes.Node], times: int = 1) -> Uses:
        """What the output of statements may hold; inside a loop it is there many times."""
        total: Uses = {}
        for node in body:
            if isinstance(node, nodes.Output):
                for part in node.nodes:
                    _add(total, self._uses(part), times)
            elif isinstance(node, nodes.If):
                branches = [node.body, *[e.body for e in node.elif_], node.else_]
                _add(total, _most([self._written(branch, times) for branch in branches]))
            elif isinstance(node, nodes.For):
                _add(total, self._written([*node.body, *node.else_], 2))
            elif not isinstance(node, nodes.Macro | nodes.AssignBlock | nodes.Assign):
                _add(total, self._written(list(node.iter_child_nodes()), times))
        return total

    def _uses(self, node: nodes.Node | None) -> Uses:
        """How often the value of an expression may hold each variable, twice standing for any number above one."""
        if node is None or isinstance(node, nodes.Compare | nodes.Test | nodes.Not | nodes.Const | nodes.TemplateData):
            return {}
        if isinstance(node, nodes.Name):
            return {node.name: 1}
        if isinstance(node, nodes.Getattr):
            if isinstance(node.node, nodes.Name):
                return {f"{node.node.name}.{node.attr}": 1, node.node.name: 1}
            return self._uses(node.node)
        if isinstance(node, nodes.Getitem | nodes.Slice):
            return self._uses(node.node) if isinstance(node, nodes.Getitem) else {}
        if isinstance(node, nodes.CondExpr):
            return _most([self._uses(node.expr1), self._uses(node.expr2)])
        if isinstance(node, nodes.And | nodes.Or):
            return _most([self._uses(node.left), self._uses(node.right)])
        times = 1
        if isinstance(node, nodes.List | nodes.Tuple | nodes.Dict):
            times = 2
        name = node.name if isinstance(node, nodes.Filter) else ""
        total: Uses = {}
        if isinstance(node, nodes.Call):
            if isinstance(node.node, nodes.Getattr):
                name = node.node.attr
                _add(total, self._uses(node.node.node), 2 if name in _MULTIPLY else 1)
            elif isinstance(node.node, nodes.Name):
                name = node.node.name
                total[f"{name}()"] = 1
        if name in _NUMBERS or name == "range":
            return {}
        if name in _MULTIPLY:
            times = 2
        for child in node.iter_child_nodes():
            if not (isinstance(node, nodes.Call) and child is node.node):
                _add(total, self._uses(child), times)
        return total

    def _check_growth(self) -> None:
        """No variable may come to hold itself more than once, by whatever way round."""
        sources: dict[str, set[str]] = {}
        for name, uses in self._flows:
            sources.setdefault(name, set()).update(uses)
        reach = {name: _reach(name, sources) for name in sources}
        for name, uses in self._flows:
            again = sum(count for used, count in uses.items() if name in reach.get(used, ()) or used == name)
            if again > 1:
                raise ValueError(f"{name[:60]!r} includes itself more than once, so it doubles again and again")
        size: dict[str, float] = {}
        for _ in range(min(len(sources), 64)):  # straight chains of doublings, which end; cycles add once a turn
            for name, uses in self._flows:
                size[name] = max(size.get(name, 1.0), sum(c * size.get(u, 1.0) for u, c in uses.items() if u != name))
                if size[name] > MAX_NUMBER:
                    raise ValueError(f"{name[:60]!r} may be {MAX_NUMBER} times as long as the conversation")


def _reach(name: str, sources: Mapping[str, set[str]]) -> set[str]:
    """The variables that ``name`` is made of."""
    seen: set[str] = set()
    left = [name]
    while left:
        for source in sources.get(left.pop(), ()):
            if source not in seen:
                seen.add(source)
                left.append(source)
    return seen


def _add(total: Uses, more: Uses, times: int = 1) -> None:
    for name, count in more.items():
        total[name] = min(total.get(name, 0) + count * times, MAX_NUMBER)


def _most(branches: Sequence[Uses]) -> Uses:
    return {name: max(b.get(name, 0) for b in branches) for branch in branches for name in branch}
