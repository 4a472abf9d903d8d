"""Every ``:mod:``, ``:class:``, ``:func:``, ``:meth:`` and ``:data:`` in our Python names something that exists."""

from __future__ import annotations

import ast
import builtins
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
ROOTS = [TOP / folder for folder in ("compiler", "runtime_shims", "training")]
PACKAGES = ("g3n_compiler", "g3n_runtime", "nano_training", "tests")
ROLE = re.compile(r":(mod|class|func|meth|data|attr|exc):`~?([^`]+)`")


def modules() -> dict[str, Path]:
    """Every module of ours by its dotted name."""
    found = {}
    for root in (*ROOTS, TOP):
        for package in PACKAGES:
            for path in (root / package).rglob("*.py"):
                found[".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


@cache
def names_in(path: Path) -> frozenset[str]:
    """What a module defines or imports, and what its classes define, as ``Class.name`` and as ``name``."""

    def names(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield from (prefix + node.name, node.name)
            if isinstance(node, ast.ClassDef):
                yield from names(node.body, node.name + ".")
            elif isinstance(node, ast.FunctionDef):
                yield from names(node.body, prefix)
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)
            for target in ast.walk(node) if isinstance(node, ast.Assign | ast.AnnAssign | ast.If) else ():
                if isinstance(target, ast.Name | ast.Attribute):
                    name = target.id if isinstance(target, ast.Name) else target.attr
                    yield from (prefix + name, name)
                elif isinstance(target, ast.ImportFrom):
                    yield from (alias.asname or alias.name for alias in target.names)

    return frozenset(names(ast.parse(path.read_text(encoding="utf-8")).body))


def exists(reference: str, module: str) -> bool:
    """Whether ``reference``, made in ``module``, names a module or something in one."""
    if reference.startswith("."):
        package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
        reference = f"{package}{reference}"
    if reference in MODULES:
        return True
    holder, _, rest = reference.rpartition(".")
    while holder:
        if holder in MODULES:
            return rest in names_in(MODULES[holder])
        holder, _, name = holder.rpartition(".")
        rest = f"{name}.{rest}"
    if reference.split(".")[0] in PACKAGES:
        return False
    # Any other name begins with one that the module defines or imports, a builtin's, or a standard library module's.
    known, first = names_in(MODULES[module]), reference.split(".")[0]
    return first in known or hasattr(builtins, first) or first in sys.stdlib_module_names


def test_every_reference_exists() -> None:
    broken = [
        f"{path.relative_to(TOP)}: {reference}"
        for module, path in MODULES.items()
        for _, reference in ROLE.findall(path.read_text(encoding="utf-8"))
        if path != Path(__file__) and not exists(reference, module)
    ]
    assert broken == []


def test_a_reference_to_nothing_is_found() -> None:
    module = "g3n_compiler.lower.litert.file_headers"
    assert exists("g3n_compiler.lower.litert.container", module) and exists(".container.write_litertlm", module)
    assert not exists(".bind", module) and not exists("g3n_compiler.lower.litert.container.nothing", module)
    assert exists("write_file_headers", module) and not exists("split_heads", module)
