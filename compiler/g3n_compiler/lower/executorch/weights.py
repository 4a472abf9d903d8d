"""The decoder's weights as buffers of an exported graph, quantised in the one pattern that XNNPACK takes rightly.

A quantised linear layer is written out as per-token int8 activations times a per-row int8 or int4 weight (``qd8`` in
XNNPACK's words). There is no other quantised path in this module: a weight-only int8 linear, whose scale XNNPACK drops
without a word, cannot be expressed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import executorch.exir  # noqa: F401  (registers the quantised operators)
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from g3n_compiler.errors import NotFinite
from g3n_compiler.modules.weights import WeightSpec
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.quantize.rows import quantize_rows

Read = Callable[[WeightSpec], Tensor]
"""Returns a weight as float32."""

WEIGHT_RANGE = {8: (-128, 127), 4: (-8, 7)}
"""Declared integer range by bits. XNNPACK tells int4 from int8 by it, though symmetric rows never reach the minimum."""

ROW_GROUPS = {"altup.prediction_coefs": "n", "altup.correction_coefs": "1"}
"""Float weights used a few rows at a time, each few a buffer: ``n`` rows are one output stream's coefficients."""


class XnnpackWeights(nn.Module):
    """:class:`~g3n_compiler.modules.weights.Weights` as buffers: float32, or int8 values with float32 scales.

    Weights are read, checked and quantised one at a time.

    Args:
        specs: the weights to hold, by name.
        recipe: gives each its scheme.
        read: returns a spec's float32 tensor.

    Raises:
        NotFinite: a weight holds a NaN or an infinity.
    """

    def __init__(self, specs: Mapping[str, WeightSpec], recipe: Recipe, read: Read) -> None:
        super().__init__()
        self._bits: dict[str, int] = {}
        self._zeros: dict[int, str] = {}
        for name, spec in specs.items():
            self._add(name, spec, recipe, read(spec))

    def tensor(self, name: str) -> Tensor:
        return self._buffer(name)

    def rows(self, name: str, begin: int, end: int) -> Tensor:
        """Rows ``[begin, end)`` of a weight in :data:`ROW_GROUPS`."""
        return self._buffer(name, f"rows{begin}_{end}")

    def linear(self, name: str, x: Tensor) -> Tensor:
        if self._bits[name] == 32:
            return F.linear(x, self._buffer(name))
        values, scales = self._buffer(name, "values"), self._buffer(name, "scales")
        zero_points = self.get_buffer(self._zeros[values.shape[0]])
        low, high = WEIGHT_RANGE[self._bits[name]]
        weight = torch.ops.quantized_decomposed.dequantize_per_channel(
            values, scales, zero_points, 0, low, high, torch.int8
        )
        return F.linear(quantize_activations(x), weight)

    def _buffer(self, name: str, part: str = "") -> Tensor:
        return self.get_buffer(_buffer_name(name, part))

    def _add(self, name: str, spec: WeightSpec, recipe: Recipe, weight: Tensor) -> None:
        require_finite(spec.tensor, weight)
        scheme = recipe.scheme(spec)
        self._bits[name] = scheme.bits
        if scheme.bits != 32:
            rows = quantize_rows(weight, scheme)
            self.register_buffer(_buffer_name(name, "values"), rows.values)
            self.register_buffer(_buffer_name(name, "scales"), rows.scales)
            if spec.shape[0] not in self._zeros:
                self._zeros[spec.shape[0]] = f"zero_points_{spec.shape[0]}"
                self.register_buffer(self._zeros[spec.shape[0]], torch.zeros(spec.shape[0], dtype=torch.int64))
            return
        group = next((size for suffix, size in ROW_GROUPS.items() if name.endswith(suffix)), None)
        step = {"n": spec.shape[-1], "1": 1}[group] if group else spec.shape[0]
        for begin in range(0, spec.shape[0], step):
            part = f"rows{begin}_{begin + step}" if group else ""
            # A view would be serialised with all of the storage behind it.
            self.register_buffer(_buffer_name(name, part), weight[begin : begin + step].clone())


def quantize_activations(x: Tensor) -> Tensor:
    """``x [..., K]`` rounded to int8 with a scale and zero point for each token, then back to float32.

    Each linear layer has its own, even where several share their input: the partitioner joins layers over shared
    quantization without looking whether that closes a cycle.
    """
    ops = torch.ops.quantized_decomposed
    scale, zero_point = ops.choose_qparams_per_token_asymmetric(x, torch.int8)
    rounded = ops.quantize_per_token(x, scale, zero_point, -128, 127, torch.int8)
    return ops.dequantize_per_token(rounded, scale, zero_point, -128, 127, torch.int8, torch.float32)


def require_finite(tensor: str, value: Tensor) -> None:
    """Raise :class:`NotFinite` when ``value``, read from the checkpoint's ``tensor``, holds a NaN or an infinity."""
    if not bool(torch.isfinite(value).all()):
        count = int((~torch.isfinite(value)).sum())
        raise NotFinite(f"tensor {tensor!r} holds {count} values that are NaN or infinite: repair the checkpoint")


def values_buffer(name: str) -> str:
    """Name of the buffer with a quantised weight's integers."""
    return _buffer_name(name, "values")


def _buffer_name(name: str, part: str) -> str:
    return name.replace(".", "_") + (f"__{part}" if part else "")
