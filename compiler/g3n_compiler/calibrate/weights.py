"""Weights that are rounded, or measured, by the first inputs that they receive."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor

from g3n_compiler.calibrate.gptq import Curvature, curvature_of, output_error, round_with_feedback
from g3n_compiler.errors import NotFinite
from g3n_compiler.lower.resume import Steps
from g3n_compiler.models.registry import text_weights
from g3n_compiler.models.weights import LazyWeights, WeightSpec
from g3n_compiler.quantize.fake import FakeQuantWeights
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.quantize.rows import fake_quantize, fake_quantize_activations
from g3n_compiler.source import Source

ERROR_ROWS = 512
"""Rows of a matrix, evenly spread, whose errors are measured: for all of them it takes as long as rounding them."""


class CalibratingWeights(FakeQuantWeights):
    """Weights as the recipe rounds them; each weight in ``rounded`` is rounded by the first inputs that it receives.

    Each rounded matrix is kept in a file of its own, so that an interrupted calibration can resume.
    """

    def __init__(
        self,
        source: Source,
        specs: Mapping[str, WeightSpec],
        rounded: Mapping[str, WeightSpec],
        recipe: Recipe,
        steps: Steps,
    ) -> None:
        super().__init__(source.read, specs, recipe, keep=False)
        self._checkpoint, self._rounded, self._steps = source, rounded, steps
        self._seen: tuple[Tensor, Curvature] | None = None
        self._plain = self._chosen = 0.0

    @property
    def error(self) -> float:
        """Squared error of the matrices' outputs on the examples, relative to that of plain rounding."""
        return self._chosen / self._plain if self._plain else 1.0

    def linear(self, name: str, x: Tensor) -> Tensor:
        if name not in self._rounded:
            return super().linear(name, x)
        kept = load_file(self._steps.file(f"{name}.safetensors", lambda path: self._round(name, x, path)))
        plain, chosen = kept["errors"].tolist()
        self._plain, self._chosen = self._plain + plain, self._chosen + chosen
        return F.linear(fake_quantize_activations(x), kept["weight"].float())

    def file(self, name: str) -> Path:
        """Where the rounded matrix is, once :meth:`linear` has been called with it."""
        return self._steps.folder / f"{name}.safetensors"

    def _round(self, name: str, x: Tensor, path: Path) -> None:
        spec = self._rounded[name]
        scheme, dtype = self._recipe.scheme(spec), self._checkpoint.dtype(spec.tensor)
        weight, curvature = self._read(spec), self._curvature(x)
        if not weight.isfinite().all() or not all(part.isfinite().all() for part in curvature):
            raise NotFinite(
                f"tensor {spec.tensor!r}, or what reaches it, holds a NaN or an infinity: the checkpoint is damaged or "
                "was trained in too small a float format"
            )
        value = round_with_feedback(weight, curvature, scheme)
        stored = value.to(dtype)
        if not torch.equal(stored.float(), value):
            stored = value  # float16 has no room for the smallest scales
        few = slice(None, None, -(-len(weight) // ERROR_ROWS))
        some, rounded = weight[few], (fake_quantize(weight[few], scheme), value[few])
        found = [output_error(some, by, curvature) * len(weight) / len(some) for by in rounded]
        errors = torch.tensor(found, dtype=torch.float64)
        path.write_bytes(
            save({"weight": stored, "errors": errors})
        )  # save_file would not raise the system's own errors

    def _curvature(self, x: Tensor) -> Curvature:
        """The curvature of ``x``, reused while the input is the same: queries, keys and values share one, and so do
        gate and up.
        """
        if self._seen is None or self._seen[0] is not x:
            self._seen = x, curvature_of(x[0])
        return self._seen[1]


class MeasuringWeights(LazyWeights):
    """A checkpoint's own weights, which keep the mean square ``[K]`` of what each of some matrices read."""

    def __init__(self, source: Source, tensors: Collection[str]) -> None:
        specs = text_weights(source.text)
        super().__init__(source.read, specs)
        whole = {name: source.in_whole(spec.tensor) for name, spec in specs.items()}
        self._tensors = {name: tensor for name, tensor in whole.items() if tensor in tensors}
        self.squares: dict[str, Tensor] = {}

    def linear(self, name: str, x: Tensor) -> Tensor:
        if (tensor := self._tensors.get(name)) is not None:
            self.squares[tensor] = x[0].square().mean(0)
        return super().linear(name, x)
