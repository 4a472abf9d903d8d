"""The decoder's weights as buffers of an exported graph, quantised in the only pattern that XNNPACK handles correctly.

A quantised linear layer is written as per-token int8 activations times a per-row int8 or int4 weight (``qd8`` in
XNNPACK's terms). This module has no other quantised path: a weight-only int8 linear layer, whose scale XNNPACK silently
drops, cannot be expressed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import executorch.exir  # noqa: F401  (registers the quantised operators)
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from g3n_compiler.errors import NotFinite
from g3n_compiler.models.weights import WeightSpec
from g3n_compiler.quantize.recipe import Recipe, Scheme
from g3n_compiler.quantize.rows import QuantizedRows, quantize_rows

Read = Callable[[WeightSpec], Tensor]
"""Returns a weight as float32."""
ReadRows = Callable[[WeightSpec, tuple[int, int] | None], Tensor]
"""Returns rows ``[begin, end)`` of a weight (all of them for ``None``) as float32."""
PartsOf = Callable[[WeightSpec, Scheme], dict[str, Tensor]]
"""Returns the tensors that a weight is stored as, by the names of :func:`part_shapes`."""

BLOCK_BYTES = 32 << 20
"""Float32 bytes of a table or a matrix that are read at a time."""
WEIGHT_RANGE = {8: (-128, 127), 4: (-8, 7)}
"""Declared integer range by bits. XNNPACK distinguishes int4 from int8 by it, although symmetric rows never reach the
minimum."""

ROW_GROUPS = {"altup.prediction_coefs": "n", "altup.correction_coefs": "1"}
"""Float weights that are used a few rows at a time, each group in a buffer; ``n`` rows are one output stream's
coefficients."""


class XnnpackWeights(nn.Module):
    """:class:`~g3n_compiler.models.weights.Weights` as buffers: float32, or int8 values with float32 scales.

    Args:
        specs: the weights to hold, by name.
        recipe: gives each weight its scheme.
        parts: what each weight is stored as; :func:`checkpoint_parts` gives the weights themselves, one at a time.
    """

    def __init__(self, specs: Mapping[str, WeightSpec], recipe: Recipe, parts: PartsOf) -> None:
        super().__init__()
        self._bits: dict[str, int] = {}
        self._zeros: dict[int, str] = {}
        for name, spec in specs.items():
            scheme = recipe.scheme(spec)
            self._bits[name] = scheme.bits
            for part, tensor in parts(spec, scheme).items():
                self.register_buffer(_buffer_name(name, part), as_filter(tensor) if is_filter(spec) else tensor)
            if scheme.bits != 32 and spec.shape[0] not in self._zeros:
                self._zeros[spec.shape[0]] = f"zero_points_{spec.shape[0]}"
                self.register_buffer(self._zeros[spec.shape[0]], torch.zeros(spec.shape[0], dtype=torch.int64))

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


def is_filter(spec: WeightSpec) -> bool:
    """Whether a weight is a convolution's: ``[out, height, width, in]``, or ``[1, height, width, out]``."""
    return len(spec.shape) == 4


def as_filter(weight: Tensor) -> Tensor:
    """A convolution's weight in PyTorch's layout; XNNPACK's serializer converts it back to this one."""
    return weight.permute((3, 0, 1, 2) if weight.shape[0] == 1 else (0, 3, 1, 2)).contiguous()


def part_shapes(spec: WeightSpec, scheme: Scheme) -> dict[str, tuple[int, ...]]:
    """The parts that a weight is stored as, with their shapes: the weight itself, groups of its rows, or values and
    scales.
    """
    if scheme.bits != 32:
        return {"values": spec.shape, "scales": spec.shape[:1]}
    group = next((size for suffix, size in ROW_GROUPS.items() if spec.name.endswith(suffix)), None)
    if group is None:
        return {"": spec.shape}
    step = {"n": spec.shape[-1], "1": 1}[group]
    return {f"rows{begin}_{begin + step}": (step, spec.shape[1]) for begin in range(0, spec.shape[0], step)}


def checkpoint_parts(read: Read, read_rows: ReadRows | None = None) -> PartsOf:
    """Parts of a checkpoint's weights, which are read, checked and quantised on demand.

    The returned function raises :class:`NotFinite` for a weight that holds a NaN or an infinity.

    Args:
        read_rows: reads some rows of a matrix. With it no quantised matrix is in memory whole in float32: E2B's head
            would take 2.1 GB, and as much again for each step on its way.
    """

    def parts(spec: WeightSpec, scheme: Scheme) -> dict[str, Tensor]:
        if read_rows is not None and scheme.bits != 32 and len(spec.shape) == 2:
            blocks = [quantize_rows(block, scheme) for block in row_blocks(spec, read_rows)]
            return {
                name: torch.cat(list(part))
                for name, part in zip(QuantizedRows._fields, zip(*blocks, strict=True), strict=True)
            }
        weight = read(spec)
        require_finite(spec.tensor, weight)
        if scheme.bits != 32:
            return quantize_rows(weight, scheme)._asdict()
        rows = [shape[0] for shape in part_shapes(spec, scheme).values()]
        # A view would be serialised with its whole underlying storage.
        return {part: t.clone() for part, t in zip(part_shapes(spec, scheme), weight.split(rows), strict=True)}

    return parts


def row_blocks(spec: WeightSpec, read: ReadRows) -> Iterator[Tensor]:
    """A matrix some rows at a time, of :data:`BLOCK_BYTES` in float32.

    Raises:
        NotFinite: a row holds a NaN or an infinity.
    """
    rows, width = spec.shape
    step = max(1, BLOCK_BYTES // (4 * width))
    for begin in range(0, rows, step):
        block = read(spec, (begin, min(begin + step, rows)))
        require_finite(spec.tensor, block)
        yield block


def quantize_activations(x: Tensor) -> Tensor:
    """``x [..., K]`` rounded to int8 with a scale and zero point for each token, then back to float32.

    Each linear layer quantises its own input, even if several share it: the partitioner merges layers with shared
    quantization without checking whether that creates a cycle.
    """
    ops = torch.ops.quantized_decomposed
    scale, zero_point = ops.choose_qparams_per_token_asymmetric(x, torch.int8)
    rounded = ops.quantize_per_token(x, scale, zero_point, -128, 127, torch.int8)
    return ops.dequantize_per_token(rounded, scale, zero_point, -128, 127, torch.int8, torch.float32)


def require_finite(tensor: str, value: Tensor) -> None:
    """Raise :class:`NotFinite` if ``value``, read from the checkpoint's ``tensor``, holds a NaN or an infinity."""
    if not bool(torch.isfinite(value).all()):
        count = int((~torch.isfinite(value)).sum())
        raise NotFinite(f"tensor {tensor!r} holds {count} values that are NaN or infinite: repair the checkpoint")


def _buffer_name(name: str, part: str) -> str:
    return name.replace(".", "_") + (f"__{part}" if part else "")
