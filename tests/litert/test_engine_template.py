"""The template that an engine would render is read from the file itself and checked before the engine has it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from litert_lm_builder.runtime.proto import llm_metadata_pb2

from g3n_compiler.checkpoint.chat_template import GEMMA
from g3n_compiler.lower.litert.container import MODEL_KINDS, write_litertlm
from g3n_compiler.lower.litert.conversation_template import conversation_template
from g3n_compiler.lower.litert.metadata import llm_metadata
from g3n_runtime.errors import BundleError
from g3n_runtime.litert import engine as litert
from g3n_runtime.litert.chat_template import check_engine_template, read_templates
from g3n_runtime.open_file import OpenFile
from tests.prompts import nano_tokenizer

HOSTILE = '{{ "x" * 4000000000 }}'


def write(folder: Path, llm: bytes) -> Path:
    models = {}
    for kind in MODEL_KINDS:
        models[kind] = folder / kind
        models[kind].write_bytes(b"model")
    write_litertlm(folder / "a.litertlm", models, b"tokenizer", llm, b"executor")
    return folder / "a.litertlm"


def test_the_template_is_the_engines(tmp_path: Path) -> None:
    path = write(tmp_path, llm_metadata(64, nano_tokenizer(), GEMMA))
    assert read_templates(OpenFile(path)) == [conversation_template(GEMMA, nano_tokenizer().turns, False)]
    check_engine_template(OpenFile(path))


def test_a_template_that_could_run_away_never_reaches_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def engine(*_: object, **__: object) -> None:
        raise AssertionError("the engine was given the file")

    path = write(tmp_path, llm_metadata(64, nano_tokenizer(), HOSTILE))
    monkeypatch.setattr(litert.litert_lm, "Engine", engine)
    monkeypatch.setattr(litert, "compiled_context", lambda path: 64)
    monkeypatch.setattr(litert, "check_header", lambda *_: None)
    with pytest.raises(BundleError, match="a mul in line 1"):
        litert.LiteRtEngine(path)


def test_each_of_several_templates_is_checked(tmp_path: Path) -> None:
    good, bad = (llm_metadata_pb2.LlmMetadata(jinja_prompt_template=t).SerializeToString() for t in ("a", HOSTILE))
    for llm in (good + bad, bad + good):
        with pytest.raises(BundleError, match="a mul in line 1"):
            check_engine_template(OpenFile(write(tmp_path, llm)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "a.litertlm"
    if not path.exists():
        write(tmp_path, llm_metadata(64, nano_tokenizer(), GEMMA))
    whole = path.read_bytes()
    raw, metadata = bytearray(whole), 16384
    for place in data.draw(st.lists(st.integers(0, 900) | st.integers(metadata, metadata + 400), min_size=1)):
        raw[place % len(raw)] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "b.litertlm"
    damaged.write_bytes(raw[: data.draw(st.integers(0, len(raw)) | st.just(len(raw)))])
    try:
        read_templates(OpenFile(damaged))
    except BundleError as error:
        assert str(damaged) in str(error)
