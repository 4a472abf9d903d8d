"""The app's presenters and loops with real inference on this machine's JVM, against the Python side."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from android_app.tests.conftest import ROOT, run
from g3n_runtime.bundle import open_bundle
from g3n_runtime.chat import GREEDY
from g3n_runtime.engines import open_engine
from g3n_runtime.executorch.model import ExecuTorchModel, ExecuTorchParts
from g3n_runtime.executorch.roles import ROLES
from g3n_runtime.prompt import read_template

RUNTIMES = ("litert", "executorch")
PROMPTS = ("What is a dog?", 'Use "river" in a sentence.', "What does 'quickly' mean?")
TOKENS = 24


class Host:
    """The app without its screens, see ``HostChat.kt``."""

    def __init__(self, android: Path, shims: Path, litertlm: Path) -> None:
        kotlin = android / "parts" / "kotlin-compiler" / "lib" / "kotlin-stdlib.jar"
        schema = ROOT / "runtime_shims" / "g3n_runtime"
        self._command = [
            "java", "-Xmx512m", f"-Dg3n.shims={shims}", f"-Dg3n.litertlm={litertlm}",
            "-cp", f"{android}/jvm.jar:/usr/share/java/gson.jar:{kotlin}:{schema}", "org.g3n.host.HostChatKt",
        ]  # fmt: skip

    def chat(self, bundle: Path, runtime: str, session: Path, *prompts: str, tokens: int = TOKENS) -> dict[str, Any]:
        out = run(*self._command, bundle, runtime, str(tokens), session, *prompts)
        return json.loads(out.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def host(jvm_report: str, android: Path, shims: Path, site_packages: Path) -> Host:
    return Host(android, shims, site_packages / "litert_lm" / "liblitert-lm.so")


def python_answers(bundle: Path, runtime: str) -> list[str]:
    engine = open_engine(open_bundle(bundle), runtime, threads=1)
    try:
        return ["".join(engine.send(prompt, GREEDY, TOKENS)).strip() for prompt in PROMPTS]
    finally:
        engine.close()


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("bundle_name", ["nano_fp32", "nano_int4"])
def test_a_conversation_is_pythons(
    runtime: str, bundle_name: str, host: Host, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    bundle: Path = request.getfixturevalue(bundle_name)
    report = host.chat(bundle, runtime, tmp_path / "session.json", *PROMPTS)
    said = [turn["text"].strip() for turn in report["turns"] if turn["role"] == "MODEL"]
    assert said == python_answers(bundle, runtime)
    assert len(report["finishes"]) == len(PROMPTS) and "error" not in report
    assert report["verdict"] in ("FITS", "TIGHT")


def test_the_loop_draws_pythons_tokens(host: Host, nano_int4: Path, tmp_path: Path) -> None:
    """Our Kotlin loop over ``text_decoder`` against the same method called from Python, token by token."""
    bundle = open_bundle(nano_int4)
    model = ExecuTorchModel(ExecuTorchParts(bundle.file(ROLES["model"]), bundle.file(ROLES["tables"])), "text_decoder")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(bundle.file(ROLES["tokenizer"])))
    stops = bundle.manifest["tokenizer"]["stop_ids"]
    prompt = read_template(bundle.manifest).render([{"role": "user", "content": PROMPTS[0]}])
    ids = list(tokenizer.encode(prompt, add_special_tokens=False).ids)
    tokens = model.greedy(ids, TOKENS, stops)
    report = host.chat(nano_int4, "executorch", tmp_path / "session.json", PROMPTS[0])
    assert report["pieces"] == [len(tokens)]
    assert report["turns"][-1]["text"] == tokenizer.decode(tokens, skip_special_tokens=False)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_conversation_goes_on_in_a_new_process(runtime: str, host: Host, nano_fp32: Path, tmp_path: Path) -> None:
    at_once = host.chat(nano_fp32, runtime, tmp_path / "one.json", *PROMPTS[:2])
    session = tmp_path / "two.json"
    host.chat(nano_fp32, runtime, session, PROMPTS[0])
    assert host.chat(nano_fp32, runtime, session, PROMPTS[1])["turns"] == at_once["turns"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_limit_ends_an_answer(runtime: str, host: Host, nano_fp32: Path, tmp_path: Path) -> None:
    report = host.chat(nano_fp32, runtime, tmp_path / "session.json", PROMPTS[0], tokens=3)
    assert report["finishes"] == ["LENGTH"] and report["pieces"] == [3]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_conversation_beyond_the_context_is_told(runtime: str, host: Host, nano_fp32: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the bundle's context is 512: start anew"):
        host.chat(nano_fp32, runtime, tmp_path / "session.json", "many words " * 300)


def test_a_damaged_bundle_is_not_loaded(host: Host, nano_fp32: Path, tmp_path: Path) -> None:
    copy = tmp_path / "damaged"
    shutil.copytree(nano_fp32, copy)
    program = open_bundle(copy).file(ROLES["model"])
    data = bytearray(program.read_bytes())
    data[len(data) // 2] ^= 1
    program.write_bytes(data)
    with pytest.raises(AssertionError, match=rf"{re.escape(program.name)} differs from the hash"):
        host.chat(copy, "executorch", tmp_path / "session.json", PROMPTS[0])
