"""The inputs through which LiteRT-LM gives a graph a LoRA adapter while it runs: names and shapes.

The engine has names for the four matrices of attention alone. It copies a tensor of the adapter's file into the input
of the same name, byte for byte, so that the layout is ours: that of ``litert_torch.generative.layers.lora``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from g3n_compiler.models.weights import WeightSpec

ADAPTED = re.compile(r"layers\.(?P<layer>\d+)\.self_attn\.(?P<matrix>[qkvo])_proj")
"""Names of the weights that an adapter can reach."""


@dataclass(frozen=True)
class LoraInputs:
    """The two inputs of one adapted weight ``[N, K]``: ``x`` gains ``(x @ a) @ b``."""

    a: str
    a_shape: tuple[int, int]
    """``[K, rank]``."""
    b: str
    b_shape: tuple[int, int]
    """``[rank, N]``."""

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        return {self.a: self.a_shape, self.b: self.b_shape}


def lora_inputs(specs: Mapping[str, WeightSpec], rank: int) -> dict[str, LoraInputs]:
    """The inputs of every weight of ``specs`` that can be adapted, by the weight's name; none if ``rank`` is 0."""
    found = {}
    for name, spec in specs.items():
        if rank and (names := input_names(name)) is not None:
            rows, columns = spec.shape
            found[name] = LoraInputs(names[0], (columns, rank), names[1], (rank, rows))
    return found


def input_names(weight: str) -> tuple[str, str] | None:
    """The inputs ``a`` and ``b`` of the weight of that name; ``None`` for one that the engine has no names for."""
    match = ADAPTED.fullmatch(weight)
    if match is None:
        return None
    begin, end = f"lora_atten_{match['matrix']}_", f"_prime_weight_{match['layer']}"
    return f"{begin}a{end}", f"{begin}b{end}"
