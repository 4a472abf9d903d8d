"""From methods as PyTorch modules to the bytes of a ``model.pte``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from g3n_compiler.errors import ParityError

DATA_NAME = re.compile(rb"(?:scale_)?[0-9a-f]{64}")
"""A name by which a delegate requests data, see :func:`.delegates.weight_store.data_name`."""
DATA_ALIGNMENT = 16
"""Alignment in bytes of the data that delegates request by name, as in XNNPACK's serializer."""


@dataclass(frozen=True)
class Method:
    """A method to lower.

    ``dynamic`` gives, for each input, the dimension that is the number of tokens, ``None`` for an input without one.
    """

    name: str
    module: nn.Module
    inputs: tuple[Tensor, ...]
    dynamic: tuple[int | None, ...]


def export_method(method: Method, longest: int) -> torch.export.ExportedProgram:
    """Trace ``method`` for any number of tokens from 1 to ``longest``."""
    tokens = torch.export.Dim("tokens", min=1, max=longest)
    shapes = tuple({} if axis is None else {axis: tokens} for axis in method.dynamic)
    with torch.no_grad():
        return torch.export.export(method.module.eval(), method.inputs, dynamic_shapes=shapes, strict=False)


def to_edge(programs: Mapping[str, torch.export.ExportedProgram], constants: Mapping[str, Any]) -> Any:
    """An ``EdgeProgramManager`` for methods that already call delegates; ``constants`` become methods without inputs.

    The manager is the toolchain's own type.
    """
    from executorch import exir

    # Quantised look-ups are not core ATen operators, which the validity check requires.
    config = exir.EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True)
    return exir.to_edge(dict(programs), constant_methods=dict(constants), compile_config=config)


def serialize(
    edge: Any,
    table_rows: Mapping[str, int],
    tag: str,
    data: Mapping[str, bytes | Path],
    inside: Mapping[str, Path] | None = None,
) -> Any:
    """The ``model.pte`` as a ``Cord`` (``write_to_file``).

    Args:
        edge: the result of :func:`to_edge`.
        table_rows: rows of each buffer in the data file, by the end of its qualified name; the graph was made with one
            row each.
        tag: the program's name for the data file.
        data: what delegates request by name, as bytes or as files, which must exist until the ``Cord`` is written.
        inside: files of the buffers of ``table_rows`` that go into the program itself instead of a data file.
    """
    from executorch.exir import ExecutorchBackendConfig
    from executorch.exir._serialize._cord import FileBackedData
    from executorch.exir._serialize._named_data_store import NamedDataStore
    from executorch.exir._serialize._program import PTEFile, serialize_pte_binary

    def place(node: torch.fx.Node) -> str | None:
        return tag if any(str(node.target).endswith(name.replace(".", "_")) for name in table_rows) else None

    # With the reinplace pass a chunk is written into its cache; without it the whole cache is copied twice a token.
    manager = edge.to_executorch(ExecutorchBackendConfig(external_constants=place, run_reinplace_pass=True))
    # The manager has already serialised a program for one-row tables; this repeats its last step.
    program, store = manager.executorch_program, NamedDataStore()
    _bind_tables(program, table_rows)
    if inside:
        _take_in(program, inside)
    requested = {name.decode() for blob in program.backend_delegate_data for name in DATA_NAME.findall(blob.data)}
    for name, held in sorted(data.items()):
        if name not in requested:
            continue  # it is an input of the delegates, see .delegates.constants
        entry = held if isinstance(held, bytes) else FileBackedData(str(held))
        store.add_named_data(name, entry, DATA_ALIGNMENT)
    named = store.get_named_data_store_output()
    return serialize_pte_binary(PTEFile(program, None, named), extract_delegate_segments=True)


def _bind_tables(program: Any, table_rows: Mapping[str, int]) -> None:
    """Give each external tensor its true number of rows and its name in the data file."""
    from executorch.exir.schema import Tensor as SchemaTensor
    from executorch.exir.schema import TensorDataLocation

    bound = 0
    for plan in program.execution_plan:
        for value in plan.values:
            tensor = value.val
            if not isinstance(tensor, SchemaTensor) or tensor.extra_tensor_info is None:
                continue
            if tensor.extra_tensor_info.location is not TensorDataLocation.EXTERNAL:
                continue
            name = tensor.extra_tensor_info.fully_qualified_name
            key = next((k for k in table_rows if name.endswith(k)), None)
            if key is None or tensor.sizes[0] != 1:
                raise ParityError(f"external tensor {name!r} is not a table made for this program")
            tensor.sizes[0] = table_rows[key]
            tensor.extra_tensor_info.fully_qualified_name = key
            bound += 1
    if bound < len(table_rows):
        raise ParityError(f"{bound} external tensors in the program, expected at least {len(table_rows)}")


def _take_in(program: Any, inside: Mapping[str, Path]) -> None:
    """Turn external tensors into constants of the program, each buffer once however many methods use it."""
    from executorch.exir._serialize._cord import FileBackedData
    from executorch.exir.schema import Buffer
    from executorch.exir.schema import Tensor as SchemaTensor

    places: dict[str, int] = {}
    for plan in program.execution_plan:
        for value in plan.values:
            tensor = value.val
            if not isinstance(tensor, SchemaTensor) or tensor.extra_tensor_info is None:
                continue
            name = tensor.extra_tensor_info.fully_qualified_name
            if name not in inside:
                continue
            if name not in places:
                places[name] = len(program.constant_buffer)
                program.constant_buffer.append(Buffer(storage=FileBackedData(str(inside[name]))))
            tensor.data_buffer_idx, tensor.extra_tensor_info = places[name], None
