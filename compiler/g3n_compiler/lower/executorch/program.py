"""From methods as PyTorch modules to the bytes of a ``model.pte``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from g3n_compiler.errors import ParityError


@dataclass(frozen=True)
class Method:
    """A method to lower.

    ``dynamic`` gives, for each input, the dimension that is the number of tokens.
    """

    name: str
    module: nn.Module
    inputs: tuple[Tensor, ...]
    dynamic: tuple[int, ...]


def export_method(method: Method, longest: int) -> torch.export.ExportedProgram:
    """Trace ``method`` for any number of tokens from 1 to ``longest``."""
    tokens = torch.export.Dim("tokens", min=1, max=longest)
    shapes = tuple({axis: tokens} for axis in method.dynamic)
    with torch.no_grad():
        return torch.export.export(method.module.eval(), method.inputs, dynamic_shapes=shapes, strict=False)


def place_outside(program: torch.export.ExportedProgram, values: str, tag: str) -> None:
    """Have XNNPACK look for the weight whose integers are in buffer ``values`` in the data file ``tag``, by its hash.

    Raises:
        ParityError: the program does not multiply by such a weight.
    """
    buffers = program.graph_signature.inputs_to_buffers
    found = [
        node
        for node in program.graph.nodes
        if "dequantize_per_channel" in str(node.target)
        and buffers.get(node.args[0].name, "").rpartition(".")[2] == values
    ]
    if not found:
        raise ParityError(f"no quantised weight {values!r} in the program, expected one to file outside")
    for node in found:
        # What XNNPACK's serializer reads.
        node.meta["custom"] = {**node.meta.get("custom", {}), "delegate_constant_tag": tag}


def to_edge(programs: Mapping[str, torch.export.ExportedProgram], constants: Mapping[str, Any]) -> Any:
    """Partition and delegate; ``constants`` become methods without inputs. Returns an ``EdgeProgramManager``."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    return to_edge_transform_and_lower(
        dict(programs),
        partitioner=[XnnpackPartitioner()],
        # Quantised look-ups are not core ATen operators, which the validity check insists on.
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
        constant_methods=dict(constants),
    )


def serialize(edge: Any, table_rows: Mapping[str, int], tag: str, keys: Collection[str]) -> Any:
    """The ``model.pte`` as a ``Cord`` (``write_to_file``).

    Args:
        edge: what :func:`to_edge` returned.
        table_rows: rows of each buffer that lies in the data file, by the end of its qualified name; the graph was made
            with one row each.
        tag: what the program calls the data file.
        keys: what the data file holds.

    Raises:
        ParityError: the program asks the data file for something that it does not hold.
    """
    from executorch.exir import ExecutorchBackendConfig
    from executorch.exir._serialize._named_data_store import NamedDataStoreOutput
    from executorch.exir._serialize._program import PTEFile, serialize_pte_binary

    def place(node: torch.fx.Node) -> str | None:
        return tag if any(str(node.target).endswith(name.replace(".", "_")) for name in table_rows) else None

    # With the reinplace pass a chunk is written into its cache; without it the whole cache is copied twice a token.
    manager = edge.to_executorch(ExecutorchBackendConfig(external_constants=place, run_reinplace_pass=True))
    # The manager has already serialised a program for tables of one row; what follows is its own last step again.
    program, named = manager.executorch_program, manager._named_data
    _bind_tables(program, table_rows)
    wanted = named.external_data.get(tag, {})
    if set(named.external_data) - {tag} or set(wanted) - set(keys):
        raise ParityError(
            f"the program looks for {sorted(set(wanted) - set(keys))} in {sorted(named.external_data)}, which the data "
            "file was not made with: the pinned ExecuTorch version names weights in another way"
        )
    inside = NamedDataStoreOutput(named.buffers, named.pte_data, {})
    return serialize_pte_binary(PTEFile(program, None, inside), extract_delegate_segments=True)


def _bind_tables(program: Any, table_rows: Mapping[str, int]) -> None:
    """Give each external tensor its true number of rows and the name it has in the data file."""
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
