"""``g3n::prefix``: a SLICE whose size is known at run time only, so that attention costs what is used of a cache.

To the exporter its result is one element shorter than its input: the converter would drop a slice of everything. TFLite
takes the length from the size operand, gives the tensor a dynamic shape, and works out the shapes of what follows as
it runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from litert_converter.mlir import ir
from litert_converter.mlir.dialects import stablehlo
from litert_torch.backend import lowerings
from torch import Tensor


@torch.library.custom_op("g3n::prefix", mutates_args=())
def prefix(x: Tensor, size: Tensor, axis: int) -> Tensor:
    """``x [4 axes]`` cut to ``size [4]`` int32, which differs from its shape in ``axis`` only."""
    return x.narrow(axis, 0, int(size[axis])).clone()


@prefix.register_fake
def _(x: Tensor, size: Tensor, axis: int) -> Tensor:
    return torch.empty_like(x.narrow(axis, 0, x.shape[axis] - 1))


@lowerings.lower(torch.ops.g3n.prefix)  # type: ignore[untyped-decorator]
def _lower_prefix(context: Any, x: ir.Value, size: ir.Value, axis: int) -> ir.Value:
    shape = [n - (i == axis) for i, n in enumerate(x.type.shape)]
    begin = lowerings.utils.numpy_array_constant(np.zeros(4, np.int32))
    return stablehlo.custom_call(
        result=[ir.RankedTensorType.get(shape, x.type.element_type)],
        inputs=[x, begin, size],
        call_target_name=ir.StringAttr.get("tfl.slice"),
        has_side_effect=ir.BoolAttr.get(False),
        backend_config=ir.StringAttr.get("{}"),
    )
