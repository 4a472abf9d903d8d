"""What a compile needs is known before it starts, and too little of it is refused then."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from g3n_compiler.bundle.compile_needs import Needs, compile_needs, require
from g3n_compiler.errors import DiskError, ResourceError
from g3n_compiler.lower.backend import Backend
from g3n_compiler.lower.registry import get_backend
from g3n_compiler.models.weights import WeightSpec
from g3n_compiler.quantize.recipe import RECIPES
from tests.conftest import TinyModel

HUGE = 1 << 60


def backends(*runtimes: str) -> list[Backend]:
    return [get_backend(runtime) for runtime in runtimes]


def test_too_little_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"needs 1152921504\.6 GB of disk, but \d+\.\d GB are free"):
        require(Needs(0, HUGE), tmp_path / "not" / "there" / "yet")
    with pytest.raises(ResourceError, match=r"needs 1152921504\.6 GB of memory, but \d+\.\d GB are available"):
        require(Needs(HUGE, 0), tmp_path)
    assert "needs 1.0 GB of memory and 2.0 GB of disk" in require(Needs(10**9, 2 * 10**9), tmp_path)


def test_a_tighter_limit_than_the_machines_is_named(tmp_path: Path) -> None:
    imports = "from pathlib import Path; from g3n_compiler.bundle.compile_needs import *"
    code = f"{imports}; require(Needs(10**13, 0), Path('.'))"
    limited = f'ulimit -v 20000000; exec {sys.executable} -c "{code}"'
    said = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, check=False).stderr
    assert "ResourceError: compiling needs 10000.0 GB of memory" in said and "(bounded by" in said


def test_disk_holds_every_weight_twice(tiny: TinyModel) -> None:
    config = tiny.open().text
    four, eight = (compile_needs(config, RECIPES[name], backends("litert")) for name in ("int4", "int8"))
    assert eight.memory >= four.memory > 10**9
    # Converting a tiny graph takes more than its weights do.
    large = dataclasses.replace(config, ffn_dims=(10**7,) * config.num_layers)
    four_large, eight_large = (compile_needs(large, RECIPES[name], backends("litert")) for name in ("int4", "int8"))
    assert eight_large.memory > four_large.memory > four.memory
    assert four.disk < eight.disk
    assert eight.disk > 2 * config.vocab_size * config.hidden_size * 2


def test_a_tower_is_held_whole_in_float32_while_it_is_compared(tiny: TinyModel) -> None:
    config, recipe = tiny.open().text, RECIPES["int4"]
    small, large = ([WeightSpec(f"audio.{n}", (n, 1000), "audio", f"{n}.weight")] for n in (1000, 10**6))
    text, with_small, with_large = (
        compile_needs(config, recipe, backends("litert"), towers=towers) for towers in ([], [small], [small, large])
    )
    assert with_small.memory == text.memory, "text takes more than a small tower"
    assert with_large.memory > 4 * 10**9, "float32 weights of the larger tower"
    assert with_large.disk - text.disk > 10**9 > with_small.disk - text.disk > 10**6, "of both, in the recipe's form"


def test_of_two_runtimes_the_larger_memory_and_the_disk_of_both(tiny: TinyModel) -> None:
    config = tiny.open().text
    first, second, both = (
        compile_needs(config, RECIPES["int4"], backends(*names))
        for names in (["litert"], ["executorch"], ["litert", "executorch"])
    )
    assert both.memory == max(first.memory, second.memory)
    assert both.disk == first.disk + second.disk
