"""Whether LiteRT's GPU delegate takes every operator of a converted graph, by a list of the forms that it took.

The delegate reports what it refuses only when a whole model is loaded, which needs a driver and comes last in a
compile. So the list ``gpu_operators.csv`` holds the operators of graphs that it took whole and computed rightly, each
with the form of its inputs and outputs; ``benchmarks/gpu_operators.py`` makes it. Whatever is not in the list is
refused before the weights are touched.

A tensor's form is its element type and its number of axes, such as ``float32:3``. ``w`` stands for a weight and ``c``
for another constant of any type. An asterisk marks a first axis longer than 1: the delegate takes it for a batch, which
it computes wrongly in some operators, so an operator that is listed without the mark is not known to take it.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ai_edge_litert import schema_py_generated as schema

from g3n_compiler.errors import TargetError
from g3n_compiler.lower.litert import flatbuffer

LIST = Path(__file__).with_name("gpu_operators.csv")
TYPES: dict[int, str] = {v: k.lower() for k, v in vars(schema.TensorType).items() if isinstance(v, int)}
BATCHED = "*"
SHOWN = 3
"""Refused forms that an error names."""


class Form(NamedTuple):
    """An operator with the forms of its inputs and outputs, each separated by blanks."""

    operator: str
    inputs: str
    outputs: str

    def __str__(self) -> str:
        return f"{self.operator} ({self.inputs}) -> ({self.outputs})"


def require_gpu_operators(graph: bytes, weights: Collection[str], what: str) -> None:
    """See that the delegate takes every operator of ``graph``, whose inputs named in ``weights`` become constants.

    Raises:
        TargetError: naming what it is not known to take, and in which signatures.
    """
    known = _known()
    refused = {
        signature: wrong
        for signature, found in forms(flatbuffer.parse(graph), weights).items()
        if (wrong := Counter({form: n for form, n in found.items() if not _is_known(form, known)}))
    }
    if refused:
        every = sum(refused.values(), Counter[Form]())
        named = "; ".join(f"{n} times {form}" for form, n in every.most_common(SHOWN))
        more = f" and {len(every) - SHOWN} more forms" if len(every) > SHOWN else ""
        raise TargetError(
            f"the GPU delegate is not known to take {what} whole: {named}{more}, in {', '.join(refused)}. "
            "Use --target host, which runs on the CPU; if you changed the model's code, see docs/gpu.md"
        )


def forms(model: Any, weights: Collection[str]) -> dict[str, Counter[Form]]:
    """The forms of each signature's operators, and how often they occur."""
    found: dict[str, Counter[Form]] = {}
    for definition in model.signatureDefs:
        subgraph = model.subgraphs[definition.subgraphIndex]
        bound = {t.tensorIndex for t in definition.inputs if t.name.decode() in weights}
        found[definition.signatureKey.decode()] = Counter(_forms(model, subgraph, bound))
    return found


def _forms(model: Any, subgraph: Any, weights: Collection[int]) -> Iterator[Form]:
    def form(index: int) -> str:
        tensor = subgraph.tensors[index]
        if index in weights:
            return "w"
        buffer = model.buffers[tensor.buffer]
        if buffer.offset > 1 or (buffer.data is not None and len(buffer.data)):
            return "c"
        shape = [] if tensor.shape is None else list(tensor.shape)
        return f"{TYPES[tensor.type]}:{len(shape)}{BATCHED if shape and shape[0] > 1 else ''}"

    for operator in subgraph.operators:
        inputs = " ".join(form(i) for i in operator.inputs if i >= 0)
        yield Form(flatbuffer.operator_name(model, operator), inputs, " ".join(form(i) for i in operator.outputs))


def write_list(found: Iterable[Form], path: Path = LIST) -> None:
    """Write the list: what a delegate took of graphs that it took whole."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Form._fields)
        writer.writerows(sorted(set(found)))


@cache
def _known() -> Mapping[Form, frozenset[Form]]:
    """The listed forms, by themselves without their marks."""
    with LIST.open(encoding="utf-8", newline="") as file:
        rows = [Form(**row) for row in csv.DictReader(file)]
    unmarked = {_unmarked(form) for form in rows}
    return {form: frozenset(row for row in rows if _unmarked(row) == form) for form in unmarked}


def _is_known(form: Form, known: Mapping[Form, frozenset[Form]]) -> bool:
    """Whether the form is listed; one that is listed for a batch is taken without one too."""
    return any(_within(form, listed) for listed in known.get(_unmarked(form), ()))


def _within(form: Form, listed: Form) -> bool:
    pairs = zip(f"{form.inputs} {form.outputs}".split(" "), f"{listed.inputs} {listed.outputs}".split(" "), strict=True)
    return all(own == other or own + BATCHED == other for own, other in pairs)


def _unmarked(form: Form) -> Form:
    return Form(form.operator, form.inputs.replace(BATCHED, ""), form.outputs.replace(BATCHED, ""))
