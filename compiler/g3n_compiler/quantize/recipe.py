"""Named quantization recipes: the scheme for each role of weight. A new recipe is one entry in :data:`RECIPES`.

Recipes contain only schemes that have been verified on both backends: symmetric integer weights with one scale per row,
and linear layers whose activations XNNPACK quantises to int8 on the fly (``qd8``). Weight-only int8 linear layers lose
their scale in ExecuTorch, and blockwise int8 stays fp32 in LiteRT, so neither can be expressed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from g3n_compiler.errors import TargetError
from g3n_runtime.names import unknown

if TYPE_CHECKING:  # torch comes with it, and the commands' --help lists the recipes
    from g3n_compiler.models.weights import Role, WeightSpec


@dataclass(frozen=True)
class Scheme:
    """Symmetric weight quantization with one float32 scale per row; 32 bits means left in float32."""

    bits: Literal[2, 4, 8, 32]
    clip_search: bool = False
    """Choose each row's scale for the least squared error instead of from its largest magnitude."""

    @property
    def qmax(self) -> int:
        """Largest magnitude of the integers; the range is symmetric, so that negation is exact."""
        return int(2 ** (self.bits - 1) - 1)

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a weight's values, without scales."""
        count = 1
        for n in shape:
            count *= n
        return count * self.bits // 8

    @property
    def label(self) -> str:
        return "fp32" if self.bits == 32 else f"int{self.bits}"


SCALE_BYTES = 4
FP32 = Scheme(32)
INT8 = Scheme(8)
INT4 = Scheme(4, clip_search=True)
INT4_RTN = Scheme(4)
INT2 = Scheme(2, clip_search=True)
"""LiteRT alone has kernels for it."""


@dataclass(frozen=True)
class Recipe:
    """A scheme for each role, and for single weights by their names, which go before their role."""

    name: str
    summary: str
    roles: Mapping[Role, Scheme]
    weights: Mapping[str, Scheme] = field(default_factory=dict)
    rewrites: bool = False
    """Whether weights are rewritten before they are rounded, see :mod:`g3n_compiler.rewrite`."""
    logit_tolerance: float = 1e-4
    """Largest allowed difference of logits from the recipe's own fake-quant reference, relative to their range."""
    layer_tolerance: float = 1e-4
    """The same for the output of a single layer or tower block: the effect of one int8 step in a few activations."""

    def scheme(self, spec: WeightSpec) -> Scheme:
        if spec.role == "float":
            return FP32
        return self.weights.get(spec.name) or self.roles[spec.role]

    def stored_bytes(self, specs: Iterable[WeightSpec]) -> int:
        """Bytes of ``specs`` in a file, with the scales of their rows."""
        return sum(self.scheme(spec).nbytes(spec.shape) + SCALE_BYTES * spec.shape[0] for spec in specs)


def _uniform(scheme: Scheme, towers: Scheme) -> dict[Role, Scheme]:
    text: tuple[Role, ...] = ("attention", "ffn", "linear", "head", "embedding", "ple")
    return {**dict.fromkeys(text, scheme), **_towers(towers)}


def _towers(scheme: Scheme) -> dict[Role, Scheme]:
    return {"vision": scheme, "audio": scheme}


RECIPES: dict[str, Recipe] = {
    r.name: r
    for r in (
        Recipe("fp32", "no quantization: the exact reference", _uniform(FP32, FP32)),
        Recipe(
            "int8",
            "int8 everywhere, one scale a row",
            _uniform(INT8, INT8),
            rewrites=True,
            logit_tolerance=0.05,
            layer_tolerance=0.02,
        ),
        Recipe(
            "int4",
            "FFN, attention and per-layer embeddings int4; head, embeddings, small projections and towers int8",
            {
                "attention": INT4,
                "ffn": INT4,
                "linear": INT8,
                "head": INT8,
                "embedding": INT8,
                "ple": INT4,
                **_towers(INT8),
            },
            rewrites=True,
            logit_tolerance=0.05,
            layer_tolerance=0.02,
        ),
        Recipe(
            "int4-lean",
            "as int4, with head and embeddings int4 too: the smallest bundle",
            {**_uniform(INT4, INT8), "linear": INT8},
            rewrites=True,
            logit_tolerance=0.05,
            layer_tolerance=0.02,
        ),
        Recipe(
            "int4-rtn",
            "int4 round-to-nearest everywhere but in the towers: the naive baseline, for comparison only",
            _uniform(INT4_RTN, INT8),
            logit_tolerance=0.05,
            layer_tolerance=0.02,
        ),
    )
}


AUTO = "auto"
"""The recipe whose widths are chosen for the checkpoint at hand, see :mod:`g3n_compiler.widths`."""


def get_recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        TargetError: there is none.
    """
    try:
        return RECIPES[name]
    except KeyError:
        raise TargetError(unknown("recipe", name, RECIPES)) from None
