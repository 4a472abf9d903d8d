"""What has no kernels for 2 bits refuses them by name before anything is read."""

from __future__ import annotations

import pytest

from g3n_compiler.errors import TargetError
from g3n_compiler.lower.registry import BACKENDS
from g3n_compiler.lower.subgraphs import Runtime
from g3n_compiler.quantize.recipe import INT2, RECIPES
from g3n_compiler.quantize.saved import mixed
from g3n_compiler.request.capabilities import fewest_bits, require_widths
from g3n_compiler.targets import get_target

NAME = "layers.0.mlp.up_proj"
TWO = mixed("saved-1", RECIPES["int4"].roles, {NAME: INT2})


@pytest.mark.parametrize(
    ("target", "runtimes", "fewest", "unable"),
    [
        ("android", ("litert",), 2, None),
        ("host", ("litert",), 2, None),
        ("android", ("litert", "executorch"), 4, "executorch"),
        ("pixel", ("litert",), 4, "the GPU, on which --target pixel places it,"),
    ],
)
def test_who_takes_two_bits(target: str, runtimes: tuple[Runtime, ...], fewest: int, unable: str | None) -> None:
    chosen, backends = get_target(target), {runtime: BACKENDS[runtime]() for runtime in runtimes}
    assert fewest_bits(chosen, backends) == fewest
    require_widths(chosen, backends, RECIPES["int4-lean"])
    if unable is None:
        require_widths(chosen, backends, TWO)
    else:
        with pytest.raises(TargetError, match=f"int2 in {NAME}, and {unable} has no kernels for fewer than 4 bits"):
            require_widths(chosen, backends, TWO)
