"""The one-file bundle: written, read back, damaged."""

from __future__ import annotations

import hashlib
import io
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from litert_lm_builder import litertlm_peek
from litert_lm_builder.runtime.proto import executor_metadata_pb2, llm_metadata_pb2

from g3n_compiler.checkpoint.chat_template import GEMMA
from g3n_compiler.errors import BundleError
from g3n_compiler.lower.litert.container import SectionKind, extract, find_section, sections, write_litertlm
from g3n_compiler.lower.litert.conversation_template import conversation_template
from g3n_compiler.lower.litert.metadata import executor_metadata, llm_metadata
from tests.conftest import TinyModel
from tests.prompts import nano_tokenizer

KINDS: tuple[SectionKind, ...] = ("prefill_decode", "embedder", "per_layer_embedder")


@pytest.fixture
def models(tmp_path: Path) -> dict[SectionKind, Path]:
    """Stand-ins of sizes around the block size."""
    out: dict[SectionKind, Path] = {}
    for kind, size in zip(KINDS, (16384, 16385, 3), strict=True):
        out[kind] = tmp_path / kind
        out[kind].write_bytes(kind.encode()[:1] * size)
    return out


@pytest.fixture
def bundle(models: dict[SectionKind, Path], tmp_path: Path) -> Path:
    write_litertlm(tmp_path / "a.litertlm", models, b"tokenizer", b"llm", b"executor")
    return tmp_path / "a.litertlm"


def test_sections_read_back(bundle: Path, models: dict[SectionKind, Path], tmp_path: Path) -> None:
    found = sections(bundle)
    assert [s.kind for s in found] == ["llm_metadata", "executor_metadata", "sp_tokenizer", *KINDS]
    assert all(s.begin % 16384 == 0 for s in found)
    assert bundle.stat().st_size == found[-1].end
    for kind in KINDS:
        assert extract(bundle, kind, tmp_path / "out") == find_section(bundle, kind)
        assert (tmp_path / "out").read_bytes() == models[kind].read_bytes()
    extract(bundle, "executor_metadata", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"executor"


def test_the_same_input_gives_the_same_bytes(models: dict[SectionKind, Path], tmp_path: Path) -> None:
    digests = set()
    for name in ("a", "b"):
        write_litertlm(tmp_path / name, models, b"tokenizer", llm_metadata(64, nano_tokenizer(), GEMMA), b"executor")
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_a_missing_model_is_refused(models: dict[SectionKind, Path], tmp_path: Path) -> None:
    del models["embedder"]
    with pytest.raises(BundleError, match="embedder is missing"):
        write_litertlm(tmp_path / "a", models, b"", b"", b"")


def test_a_section_that_is_not_there(bundle: Path) -> None:
    with pytest.raises(BundleError, match="0 sections of kind hf_tokenizer"):
        find_section(bundle, "hf_tokenizer")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b"X" + b[1:], "not a .litertlm"),
        (lambda b: b[:20], "not a .litertlm"),
        (lambda b: b[:24] + struct.pack("<Q", 1 << 40) + b[32:], "damaged"),
        (lambda b: b[:24] + struct.pack("<Q", 32) + b[32:], "damaged"),
        (lambda b: b[:32] + b"\xff" * 64 + b[96:], "copy"),
        (lambda b: b[: len(b) - 1], "copy the file again"),
    ],
)
def test_a_damaged_file_is_refused(bundle: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    bundle.write_bytes(damage(bundle.read_bytes()))
    with pytest.raises(BundleError, match=message):
        sections(bundle)


def test_metadata_says_what_the_engine_needs(tiny: TinyModel) -> None:
    config = tiny.open().text
    executor = executor_metadata_pb2.ExecutorMetadata.FromString(executor_metadata(config, 96)).llm_executor_metadata
    kinds = executor_metadata_pb2.StateBuffer.Type
    states = {
        s.decode_input_name: (kinds.Name(s.type), s.maximum_sequence_length, s.sequence_axis)
        for s in executor.state_buffers
    }
    assert len(states) == 2 * config.num_kv_layers
    assert states["kv_cache_k_0"] == ("TYPE_LOCAL_KEY_CACHE", 16, 2)
    assert states["kv_cache_v_4"] == ("TYPE_GLOBAL_VALUE_CACHE", 96, 3)
    llm = llm_metadata_pb2.LlmMetadata.FromString(llm_metadata(96, nano_tokenizer(), GEMMA))
    assert llm.start_token.token_ids.ids == [2]
    assert [list(t.token_ids.ids) or t.token_str for t in llm.stop_tokens] == [[106], [1], "<end_of_turn>"]
    assert not llm.suppress_tokens.ids
    assert (llm.max_num_tokens, llm.sampler_params.k, llm.sampler_params.temperature) == (96, 64, 1.0)
    assert llm.jinja_prompt_template == conversation_template(GEMMA, nano_tokenizer().turns, False)
    assert llm.llm_model_type.WhichOneof("model_type") == "generic_model" and not llm.supports_function_calling
    tools = llm_metadata(96, nano_tokenizer(), GEMMA, tools=True, suppressed=range(5, 7))
    with_tools = llm_metadata_pb2.LlmMetadata.FromString(tools)
    assert list(with_tools.suppress_tokens.ids) == [5, 6]
    assert with_tools.llm_model_type.WhichOneof("model_type") == "gemma3n" and with_tools.supports_function_calling
    assert llm.min_runtime_version == "0.11.0"


def test_only_the_named_models_ask_for_float32_on_a_gpu(models: dict[SectionKind, Path], tmp_path: Path) -> None:
    """Google's own reader finds the request where its engine looks for it."""
    path = tmp_path / "a.litertlm"
    write_litertlm(
        path, models, b"tokenizer", llm_metadata(64, nano_tokenizer(), GEMMA), b"", in_float32=["prefill_decode"]
    )
    told = io.StringIO()
    litertlm_peek.peek_litertlm_file(str(path), None, told)
    found = {
        re.search(r"tf_lite_(\w+)", part)[1]: "prefer_activation_type" in part and "fp32" in part  # type: ignore[index]
        for part in re.split(r"Section \d+:", told.getvalue())
        if "tf_lite_" in part
    }
    assert found == {"prefill_decode": True, "embedder": False, "per_layer_embedder": False}
    assert find_section(path, "prefill_decode").kind == "prefill_decode"
