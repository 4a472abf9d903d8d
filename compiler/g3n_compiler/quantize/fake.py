"""The fake-quant reference: the decoder in float, over weights and activations rounded as the recipe says.

It separates a backend's faults (the artifact differs from this) from quantization noise (this differs from fp32).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from g3n_compiler.models.weights import Read, WeightSpec, linear_by_rows
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.quantize.rows import fake_quantize, fake_quantize_activations


class FakeQuantWeights:
    """:class:`~g3n_compiler.models.weights.Weights` as ``recipe`` would quantise them.

    Args:
        read: returns a spec's float32 tensor, or rows of it.
        keep: cache the rounded weights (for small models) instead of rounding them at every use (for any size).
        float_activations: round the weights alone, as for a GPU, which does not quantise activations.
    """

    def __init__(
        self,
        read: Read,
        specs: Mapping[str, WeightSpec],
        recipe: Recipe,
        keep: bool = True,
        float_activations: bool = False,
    ) -> None:
        self._read, self._specs, self._recipe, self._keep = read, specs, recipe, keep
        self._float_activations = float_activations
        self._cache: dict[str, Tensor] = {}

    def tensor(self, name: str) -> Tensor:
        if name in self._cache:
            return self._cache[name]
        spec = self._specs[name]
        weight = fake_quantize(self._read(spec), self._recipe.scheme(spec))
        if self._keep:
            self._cache[name] = weight
        return weight

    def linear(self, name: str, x: Tensor) -> Tensor:
        if self._recipe.scheme(self._specs[name]).bits < 32 and not self._float_activations:
            x = fake_quantize_activations(x)
        if self._keep:
            return F.linear(x, self.tensor(name))
        return linear_by_rows(x, self._specs[name], self._read_rounded)

    def _read_rounded(self, spec: WeightSpec, rows: tuple[int, int] | None = None) -> Tensor:
        return fake_quantize(self._read(spec, rows), self._recipe.scheme(spec))
