"""The plan of imports: a stage may import those before it, nothing imports in a circle, and no runtime the compiler."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGES = {"g3n_compiler": ROOT / "compiler", "g3n_runtime": ROOT / "runtime_shims"}
PLAN = (
    "errors",
    "heap",
    "durable",
    "nano",
    "checkpoint",
    "models",
    "slice",
    "rewrite",
    "source",
    "tensor_account",
    "quantize",
    "targets",
    "lower",
    "verify",
    "widths",
    "bundle",
    "report",
    "request",
    "doctor",
    "calibrate",
    "compile",
    "cli",
    "harness",
)
"""The stages of ``docs/architecture.md``, files and folders of ``g3n_compiler``: each may import those before it."""
UPWARD = {
    ("checkpoint.generation", "models.gemma3n.text_config"): "the bound of an id",
    ("checkpoint.hub", "models.registry"): "sizes that a family published are names of checkpoints",
    ("checkpoint.reader", "models.weights"): "what is read is asked for by a tensor's description, which is data",
    ("checkpoint.sentencepiece", "models.gemma3n.text_config"): "the bound of a vocabulary",
    ("checkpoint.tokenizer", "models.gemma3n.text_config"): "the bound of an id, and the ids that a config names",
    ("checkpoint.tokenizer_json", "models.gemma3n.text_config"): "the bound of a vocabulary",
    ("models.embedding_tables", "quantize.recipe"): "the eager look-ups can be those of a recipe",
    ("models.embedding_tables", "quantize.rows"): "the eager look-ups can be those of a recipe",
    ("models.gemma3n.family", "source"): "a family cuts the tensors of a source, whose type it names",
    ("models.gemma3n.folder_check", "source"): "it holds the small files of a source against each other",
    ("models.gemma3n.transformers_model", "source"): "transformers' model is filled from a source",
    ("targets", "lower.registry"): "a target is refused whose backend is not there",
    ("targets", "lower.subgraphs"): "a target places subgraphs, whose names are data",
    ("bundle.manifest", "request.request"): "the manifest tells what was asked for",
    ("bundle.kinds", "report"): "the name of the report's file",
}
"""Arrows from a stage to a later one, and why each is there."""
ON_DEMAND = {
    ("g3n_compiler.models.registry", "g3n_compiler.models.gemma3n.family"): "a family is imported when it is met",
    ("g3n_compiler.lower.registry", "g3n_compiler.lower.litert.backend"): "a backend brings its toolchain",
    ("g3n_compiler.lower.registry", "g3n_compiler.lower.executorch.backend"): "a backend brings its toolchain",
}
"""Arrows of registries, inside functions: what a registry names may import the registry."""


class Arrow(NamedTuple):
    """One module imports another."""

    source: str
    target: str
    in_function: bool


def modules() -> dict[str, Path]:
    found = {}
    for package, root in PACKAGES.items():
        for path in (root / package).rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(node: ast.AST, in_function: bool = False) -> Iterator[tuple[str, bool]]:
    """Names that the code below ``node`` imports, but for those that only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.ImportFrom) and child.module:
            for name in child.names:
                full = f"{child.module}.{name.name}"
                yield full if full in MODULES else child.module, in_function
        elif isinstance(child, ast.Import):
            yield from ((name.name, in_function) for name in child.names)
        yield from imports(child, in_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def arrows_of(name: str, text: str) -> set[Arrow]:
    """The modules of ours that a module's text imports."""
    targets = ((target, inner) for target, inner in imports(ast.parse(text)) if target in MODULES and target != name)
    return {Arrow(name, target, inner) for target, inner in targets}


ARROWS = {arrow for name, path in MODULES.items() for arrow in arrows_of(name, path.read_text(encoding="utf-8"))}


def circle(arrows: set[Arrow]) -> list[str]:
    """Modules of which each imports the next and the last the first; none if there is no circle."""
    left: dict[str, set[str]] = {}
    for arrow in arrows:
        left.setdefault(arrow.source, set()).add(arrow.target)
    while ends := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in ends:
            del left[name]
    path = sorted(left)[:1]
    while path and path.index(path[-1]) == len(path) - 1:
        path.append(min(left[path[-1]] & left.keys()))
    return path[path.index(path[-1]) :] if path else []


def stage(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_nothing_imports_in_a_circle() -> None:
    allowed = {a for a in ARROWS if (a.source, a.target) in ON_DEMAND and a.in_function}
    assert {(a.source, a.target) for a in allowed} == ON_DEMAND.keys()
    assert circle(ARROWS - allowed) == []


def test_a_stage_imports_those_before_it() -> None:
    compiler = [a for a in ARROWS if a.source.startswith("g3n_compiler.") and a.target.startswith("g3n_compiler.")]
    assert {stage(a.source) for a in compiler} | {stage(a.target) for a in compiler} <= set(PLAN)
    up = {a[:2] for a in compiler if PLAN.index(stage(a.target)) > PLAN.index(stage(a.source))}
    found = {tuple(name.removeprefix("g3n_compiler.") for name in arrow) for arrow in up}
    assert sorted(found) == sorted(UPWARD)


def test_the_page_counts_what_knows_gemma_3n() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    said = re.search(r"(\d+) files of `lower/` and (\d+) of `verify/` import from `models/gemma3n`", text)
    family = "g3n_compiler.models.gemma3n."
    knowing = {a.source for a in ARROWS if a.target.startswith(family) and not a.source.startswith(family)}
    counts = [sum(stage(name) == part for name in knowing) for part in ("lower", "verify")]
    assert said is not None and [int(count) for count in said.groups()] == counts


def test_the_runtime_knows_no_compiler() -> None:
    assert [a for a in ARROWS if a.source.startswith("g3n_runtime") and a.target.startswith("g3n_compiler")] == []


def test_a_circle_is_found_at_any_level() -> None:
    text = (
        "from typing import TYPE_CHECKING\nimport g3n_runtime.push\nif TYPE_CHECKING:\n    import g3n_runtime.adb\n"
        "def f():\n    from g3n_runtime import chat\n"
    )
    found = arrows_of("g3n_runtime.bundle", text)
    assert found == {
        Arrow("g3n_runtime.bundle", "g3n_runtime.push", False),
        Arrow("g3n_runtime.bundle", "g3n_runtime.chat", True),
    }
    back = Arrow("g3n_runtime.chat", "g3n_runtime.bundle", False)
    assert circle({*found, back}) == ["g3n_runtime.bundle", "g3n_runtime.chat", "g3n_runtime.bundle"]
    assert circle(found) == []
