"""``g3n::prefix``: a SLICE whose size is known at run time only, so that attention costs what is used of a cache.

To the exporter its result is as long as its input. TFLite takes the length from the size operand: it gives the tensor a
dynamic shape and works the shapes of what follows out when it runs.
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
def prefix(x: Tensor, size: Tensor) -> Tensor:
    """The first ``size [4]`` int32 elements of each axis of ``x``; all of it wherever no TFLite runs."""
    return x.clone()


@prefix.register_fake
def _(x: Tensor, size: Tensor) -> Tensor:
    return torch.empty_like(x)


@lowerings.lower(torch.ops.g3n.prefix)  # type: ignore[untyped-decorator]
def _lower_prefix(context: Any, x: ir.Value, size: ir.Value) -> ir.Value:
    begin = lowerings.utils.numpy_array_constant(np.zeros(4, np.int32))
    return stablehlo.custom_call(
        result=[x.type],
        inputs=[x, begin, size],
        call_target_name=ir.StringAttr.get("tfl.slice"),
        has_side_effect=ir.BoolAttr.get(False),
        backend_config=ir.StringAttr.get("{}"),
    )
