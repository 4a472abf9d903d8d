"""A MatFormer slice of nano: compiled, held against ``transformers`` built of the same slice, run and looked at."""

from __future__ import annotations

from pathlib import Path

from g3n_compiler.errors import SliceError
from g3n_runtime.bundle import open_bundle
from tests.e2e.conftest import TEXT_ALONE, compiled, run

COMMAND = (
    "g3n-compile --size nano --skip-layers 5,6 --ffn-dims 256 --runtime executorch --quant fp32 --context 256 "
    f"{TEXT_ALONE}"
)


def test_slice_equals_transformers_of_the_same_shape(workspace: Path) -> None:
    bundle = compiled(workspace, COMMAND, "exported/nano-slice-host-fp32")
    manifest = open_bundle(bundle).manifest
    made = manifest["model"]["slice"]
    assert made["kept"] == [0, 1, 2, 3, 4, 7, 8, 9] and set(made["ffn_dims"]) == {256}
    assert made["num_kv_shared_layers"] == 3 and manifest["license"]["name"] == "Apache-2.0"
    against = {c["reference"] for c in manifest["parity"]["checks"] if c["passed"]}
    assert "transformers fp32" in against and "eager fp32" in against
    shown = run(f"g3n-inspect {bundle}", workspace).stdout
    assert "8 of 10 layers" in shown and "skipped" in shown and "░" in shown


def test_refused(workspace: Path) -> None:
    result = run("g3n-compile --size nano --skip-layers 4", workspace)
    assert result.returncode == SliceError.exit_code and "read its keys and values" in result.stderr
    result = run("g3n-compile --size nano --budget 1GB", workspace)
    assert result.returncode == SliceError.exit_code and "published slice of E4B" in result.stderr
