"""Run a bound model one layer at a time, directly from the file that ships.

One layer needs only that layer's memory, whatever the model's size. Its output can be compared with the reference on
the same inputs: rounding errors do not add up from layer to layer, so the limit can be tight.

The converted graph returns the streams between layers. :func:`hide_layer_outputs` turns them into inner tensors that
keep their names; :class:`PartialModel` finds them by name, and a layer is what lies between two of them::

    inputs -> layer 0 -> layer_0_streams -> layer 1 -> layer_1_streams -> ... -> logits
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from g3n_compiler.errors import TargetError
from g3n_compiler.lower.litert import flatbuffer
from g3n_compiler.lower.signatures.text import are_streams, streams_name

PARTIAL = "piece"
THREADS = 2


def hide_layer_outputs(model: Any) -> None:
    """Remove the streams between layers from every signature's outputs; their tensors keep their names."""
    for definition in model.signatureDefs:
        subgraph = model.subgraphs[definition.subgraphIndex]
        hidden = {t.tensorIndex: t.name for t in definition.outputs if are_streams(t.name.decode())}
        definition.outputs = [t for t in definition.outputs if t.tensorIndex not in hidden]
        subgraph.outputs = np.array([i for i in subgraph.outputs if i not in hidden], np.int32)
        for index, name in hidden.items():
            subgraph.tensors[index].name = name


class Part(Protocol):
    """A part of a signature, ready to run."""

    def __call__(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run on those of ``values`` that are inputs; returns the outputs by name."""


Opener = Callable[[Path, Sequence[str]], Part]
"""Opens the only signature, :data:`PARTIAL`, of the model at a path, given the names of its inputs."""


class PartialModel:
    """A bound TFLite model whose signatures can be run in part.

    Args:
        path: the model's file. Running a part overwrites its flatbuffer, so give a copy.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._header_room = min(b.offset for b in flatbuffer.external_buffers(flatbuffer.parse_file(path)))
        with path.open("rb") as file:
            self._model = flatbuffer.parse(file.read(self._header_room))

    @property
    def signatures(self) -> list[str]:
        return [d.signatureKey.decode() for d in self._model.signatureDefs]

    def layer_outputs(self, signature: str) -> list[str]:
        """Names of a signature's layer outputs, between which it can be run in part, in order."""
        tensors = self._model.subgraphs[self._definition(signature).subgraphIndex].tensors
        count = sum(t.name is not None and are_streams(t.name.decode()) for t in tensors)
        return [streams_name(i) for i in range(count)]

    def input_shapes(self, signature: str) -> dict[str, tuple[int, ...]]:
        """Shapes of a signature's inputs, by name."""
        definition = self._definition(signature)
        tensors = self._model.subgraphs[definition.subgraphIndex].tensors
        return {t.name.decode(): tuple(int(n) for n in tensors[t.tensorIndex].shape) for t in definition.inputs}

    def partial(
        self, signature: str, known: Iterable[str], outputs: Sequence[str], opener: Opener | None = None
    ) -> Part:
        """The part of a signature that computes ``outputs`` from the tensors ``known`` and the signature's inputs. Only
        one part is usable at a time.

        Args:
            opener: what runs it; by default XNNPACK on the CPU.

        Raises:
            TargetError: the signature has no such tensor.
        """
        model, inputs = self._cut(signature, frozenset(known), outputs)
        content = flatbuffer.pack(model)
        if len(content) > self._header_room:
            raise AssertionError(f"a part of {len(content)} bytes does not fit in front of the constants")
        with self._path.open("r+b") as file:
            file.write(content)
        return (opener or CpuPart)(self._path, inputs)

    def _definition(self, signature: str) -> Any:
        found = [d for d in self._model.signatureDefs if d.signatureKey.decode() == signature]
        if not found:
            raise TargetError(f"the model has no signature {signature!r}: it was not written by this compiler")
        return found[0]

    def _cut(self, signature: str, known: frozenset[str], outputs: Sequence[str]) -> tuple[Any, list[str]]:
        """A model of one signature that computes ``outputs``, and the names of its inputs."""
        definition = self._definition(signature)
        whole = self._model.subgraphs[definition.subgraphIndex]
        names = {i: t.name.decode() for i, t in enumerate(whole.tensors) if t.name is not None}
        names |= {t.tensorIndex: t.name.decode() for t in (*definition.inputs, *definition.outputs)}
        index_of = {name: i for i, name in names.items()}
        # A cache goes in and comes out under the same name; ``outputs`` means the one that comes out.
        index_of |= {t.name.decode(): t.tensorIndex for t in definition.outputs}
        if missing := [name for name in outputs if name not in index_of]:
            raise TargetError(f"{signature!r} has no tensor {missing[0]!r}: it was not written by this compiler")
        ends = [index_of[name] for name in outputs]
        starts = {index_of[name] for name in known if name in index_of} | {t.tensorIndex for t in definition.inputs}
        found, operators = _between(starts, ends, whole.operators)
        begins = sorted(found)
        model = copy.copy(self._model)
        model.subgraphs = [reduced(whole, operators, begins, ends)]
        places = {old: new for new, old in enumerate(_used(operators, begins, ends))}
        model.signatureDefs = [
            schema.SignatureDefT(
                inputs=[schema.TensorMapT(names[i].encode(), places[i]) for i in begins],
                outputs=[schema.TensorMapT(names[i].encode(), places[i]) for i in ends],
                signatureKey=PARTIAL.encode(),
            )
        ]
        return model, [names[i] for i in begins]


class CpuPart:
    """A part on the CPU, through XNNPACK; ``inputs`` are the names of its inputs."""

    def __init__(self, path: Path, inputs: Sequence[str]) -> None:
        self.inputs = tuple(inputs)
        self._interpreter = Interpreter(model_path=str(path), num_threads=THREADS)
        self._run = self._interpreter.get_signature_runner(PARTIAL)

    def __call__(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run on those of ``values`` that are inputs; returns the outputs by name."""
        return dict(self._run(**{name: values[name] for name in self.inputs}))


def _between(starts: set[int], ends: Sequence[int], operators: Sequence[Any]) -> tuple[set[int], list[Any]]:
    """The starts that ``ends`` depend on, and the operators in between, in order."""
    producers = {int(t): operator for operator in operators for t in operator.outputs}
    found: set[int] = set()
    kept: set[int] = set()
    seen: set[int] = set()
    waiting = list(ends)
    while waiting:
        index = waiting.pop()
        if index in seen or index < 0:
            continue
        seen.add(index)
        if index in starts and index not in ends:
            found.add(index)
        elif index in producers:
            kept.add(id(producers[index]))
            waiting += [int(i) for i in producers[index].inputs]
    return found, [operator for operator in operators if id(operator) in kept]


def _used(operators: Sequence[Any], begins: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Indices of the tensors that the part holds, ascending."""
    touched = {int(i) for operator in operators for i in (*operator.inputs, *operator.outputs) if i >= 0}
    return sorted(touched.union(begins, ends))


def reduced(whole: Any, operators: Sequence[Any], begins: Sequence[int], ends: Sequence[int]) -> Any:
    """A subgraph with only these ``operators`` of ``whole`` and their tensors, renumbered."""
    used = _used(operators, begins, ends)
    places = {old: new for new, old in enumerate(used)} | {-1: -1}
    subgraph = schema.SubGraphT(tensors=[whole.tensors[i] for i in used], operators=[], name=whole.name)
    for operator in operators:
        moved = copy.copy(operator)
        moved.inputs = np.array([places[int(i)] for i in operator.inputs], np.int32)
        moved.outputs = np.array([places[int(i)] for i in operator.outputs], np.int32)
        subgraph.operators.append(moved)
    subgraph.inputs = np.array([places[i] for i in begins], np.int32)
    subgraph.outputs = np.array([places[i] for i in ends], np.int32)
    return subgraph
