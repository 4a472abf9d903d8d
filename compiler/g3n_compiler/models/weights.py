"""What a graph's weight is, where it is in the checkpoint, and how a decoder accesses it.

A :class:`WeightSpec` can be a row range of a checkpoint tensor, so that a weight can be streamed, quantised and sliced
without copying the whole tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Role = Literal["attention", "ffn", "linear", "head", "embedding", "ple", "vision", "audio", "float"]
"""What a weight is for; a quantization recipe gives each role a scheme. ``vision`` and ``audio`` are the towers'
matrices. ``float`` is never quantised: norms, scales, biases, and convolutions that are not matrix products.
"""


@dataclass(frozen=True)
class WeightSpec:
    """One weight of a graph: ``shape`` is its shape in the graph; ``rows`` and ``columns`` select it from the tensor.

    ``tensor`` is a name within the text model or, for a tower's tensor, one that begins with the tower's name.

    ``axes`` permutes the dimensions of the checkpoint's tensor (a channels-first convolution) into the graph's; the
    trailing dimensions of a pointwise convolution are dropped.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    tensor: str
    rows: tuple[int, int] | None = None
    axes: tuple[int, ...] | None = None
    columns: tuple[tuple[int, int], ...] | None = None
    """Column ranges, placed side by side."""

    @property
    def input_name(self) -> str:
        """Name of the graph input for this weight until its bytes are bound."""
        return "w_" + self.name.replace(".", "_")


class Read(Protocol):
    """Reads a weight as float32 in the graph's layout: all of it, or rows ``[begin, end)``."""

    def __call__(self, spec: WeightSpec, rows: tuple[int, int] | None = None) -> Tensor: ...


class Weights(Protocol):
    """How a decoder accesses its weights. Each backend has its own way: graph inputs, quantised buffers, fake-quant."""

    def tensor(self, name: str) -> Tensor:
        """A float weight (norm gain, scale, AltUp coefficients)."""

    def linear(self, name: str, x: Tensor) -> Tensor:
        """``x [..., K] @ weight [N, K].T -> [..., N]``."""


Adapted = tuple[Tensor, Tensor]
"""What an adapter adds to a matrix ``[N, K]``: ``a [K, r]`` and ``b [r, N]``, its scale within ``b``."""


class AdaptedWeights:
    """Weights with a LoRA adapter beside some matrices, in float whatever they are themselves."""

    def __init__(self, weights: Weights, adapter: Mapping[str, Adapted]) -> None:
        self._weights, self._adapter = weights, adapter

    def tensor(self, name: str) -> Tensor:
        return self._weights.tensor(name)

    def linear(self, name: str, x: Tensor) -> Tensor:
        y = self._weights.linear(name, x)
        if name not in self._adapter:
            return y
        a, b = self._adapter[name]
        return y + (x @ a) @ b


class TensorWeights:
    """Weights held as plain float tensors, by name."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def tensor(self, name: str) -> Tensor:
        return self._tensors[name]

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self._tensors[name])


class LazyWeights:
    """Weights that are read when needed and not kept, so a model of any size needs the memory of one tensor."""

    def __init__(self, read: Read, specs: Mapping[str, WeightSpec]) -> None:
        self._read = read
        self._specs = specs

    def tensor(self, name: str) -> Tensor:
        return self._read(self._specs[name])

    def linear(self, name: str, x: Tensor) -> Tensor:
        return linear_by_rows(x, self._specs[name], self._read)


def linear_by_rows(x: Tensor, spec: WeightSpec, read: Read, block: int = 1 << 14) -> Tensor:
    """``x [..., K] @ weight [N, K].T -> [..., N]``, with ``block`` rows of the weight in memory at a time."""
    ends = [*range(block, spec.shape[0], block), spec.shape[0]]
    return torch.cat([F.linear(x, read(spec, (max(0, end - 1) // block * block, end))) for end in ends], -1)
