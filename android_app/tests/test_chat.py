"""The app's presenters and loops with real inference on this machine's JVM, against the Python side."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from android_app.tests.conftest import ROOT, run
from android_app.tests.host import PROMPTS, RUNTIMES, TOKENS, WAYS, Host, keep, python_answers
from g3n_runtime.bundle import open_bundle
from g3n_runtime.chat import GREEDY, Attachments
from g3n_runtime.engines import open_engine
from g3n_runtime.executorch.model import ExecuTorchModel, ExecuTorchParts
from g3n_runtime.executorch.roles import ROLES
from g3n_runtime.prompt import read_template


@pytest.fixture(scope="module")
def host(jvm_report: str, android: Path, shims: Path, litertlm: Path) -> Host:
    return Host(android, shims, litertlm)


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


@pytest.mark.parametrize("way", WAYS[1:])
def test_both_ways_through_executorch_draw_pythons_tokens(
    way: str, host: Host, nano_fp32: Path, tmp_path: Path
) -> None:
    """Against the program's ``text_decoder`` called from Python, token by token."""
    bundle = open_bundle(nano_fp32)
    model = ExecuTorchModel(ExecuTorchParts(bundle.file(ROLES["model"]), bundle.file(ROLES["tables"])), "text_decoder")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(bundle.file(ROLES["tokenizer"])))
    stops = bundle.manifest["tokenizer"]["stop_ids"]
    prompt = read_template(bundle.manifest).render([{"role": "user", "content": PROMPTS[0]}])
    ids = list(tokenizer.encode(prompt, add_special_tokens=False).ids)
    tokens = model.greedy(ids, TOKENS, stops)
    report = host.chat(nano_fp32, way, tmp_path / "session.json", PROMPTS[0])
    assert report["pieces"] == [len(tokens)]
    assert report["turns"][-1]["text"] == tokenizer.decode(tokens, skip_special_tokens=False)


def test_executorchs_java_module_takes_no_data_file(host: Host, nano_int4: Path, tmp_path: Path) -> None:
    """A rounded bundle of text alone keeps its head in the ``.ptd``; one with towers does not."""
    session = tmp_path / "session.json"
    if open_bundle(nano_int4).manifest["model"]["modalities"] == ["text"]:
        with pytest.raises(AssertionError, match="Failed to load method: text_decoder"):
            host.chat(nano_int4, "MODULE", session, PROMPTS[0])
        return
    report = host.chat(nano_int4, "MODULE", session, *PROMPTS)
    said = [turn["text"].strip() for turn in report["turns"] if turn["role"] == "MODEL"]
    assert said == python_answers(nano_int4, "executorch")


def test_executorchs_own_runner_takes_the_data_file(host: Host, nano_int4: Path, tmp_path: Path) -> None:
    report = host.chat(nano_int4, "LLM_MODULE", tmp_path / "session.json", *PROMPTS)
    said = [turn["text"].strip() for turn in report["turns"] if turn["role"] == "MODEL"]
    assert said == python_answers(nano_int4, "executorch")


def test_a_picture_is_refused_by_executorchs_own_runner(host: Host, nano_int4: Path, tmp_path: Path) -> None:
    """Its Java class takes pictures only with towers inside the program, where none of our bundles has them."""
    path = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(path)
    with pytest.raises(AssertionError, match=r"takes no vision: (load it with LiteRT|compile it with --modalities)"):
        host.chat(nano_int4, "LLM_MODULE", tmp_path / "session.json", f"--image={path}", "What is this?")


@pytest.mark.parametrize("way", WAYS)
def test_stop_ends_an_answer_and_the_next_one_is_whole(way: str, host: Host, nano_fp32: Path, tmp_path: Path) -> None:
    report = host.chat(nano_fp32, way, tmp_path / "session.json", "--stop=2", PROMPTS[0], PROMPTS[1])
    stopped, whole = (turn for turn in report["turns"] if turn["role"] == "MODEL")
    assert report["finishes"] == ["STOPPED", "END_OF_TURN"] and stopped["partial"] and not whole["partial"]
    # LiteRT-LM speaks on a thread of its own: pieces that were on their way are still shown.
    assert stopped["text"].startswith("A dog") if way == "litert" else stopped["text"] == "A dog"
    assert whole["text"].strip().endswith(".")


@pytest.mark.parametrize("role", [ROLES["model"], ROLES["tokenizer"]])
def test_what_executorchs_own_runner_refuses_is_told(role: str, host: Host, nano_int4: Path, tmp_path: Path) -> None:
    """Each in a JVM of its own: an error that ended the process would be no exception."""
    data = open_bundle(nano_int4).file(role).read_bytes()
    half = data[: len(data) // 2]

    def change(manifest: dict[str, Any]) -> None:
        entry = next(file for file in manifest["files"] if file["role"] == role)
        entry.update(bytes=len(half), sha256=hashlib.sha256(half).hexdigest())

    bundle = edited(nano_int4, tmp_path, change)
    (bundle / open_bundle(nano_int4).file(role).name).write_bytes(half)
    with pytest.raises(AssertionError, match=r"\[ExecuTorch Error 0x\w+\] [^:]+: Failed to load model\""):
        host.chat(bundle, "LLM_MODULE", tmp_path / "session.json", PROMPTS[0])


@pytest.mark.parametrize("kind", ["image", "sound"])
def test_the_apps_engine_takes_pictures_and_sounds(kind: str, host: Host, nano_int4: Path, tmp_path: Path) -> None:
    bundle = open_bundle(nano_int4)
    if not {"vision", "audio"} <= set(bundle.manifest["model"]["modalities"]):
        pytest.skip("this bundle was compiled for text alone: name one with towers by G3N_BUNDLES")
    path = tmp_path / {"image": "a.png", "sound": "a.wav"}[kind]
    if kind == "image":
        Image.linear_gradient("L").resize((640, 480)).convert("RGB").save(path)
    else:
        with wave.open(str(path), "wb") as sound:
            sound.setparams((1, 2, 16000, 0, "NONE", ""))
            sound.writeframes(b"".join(struct.pack("<h", 90 * (i * i % 211)) for i in range(16000)))
    prompt = "What is this?"
    report = host.chat(nano_int4, "litert", tmp_path / "session.json", f"--{kind}={path}", prompt)
    engine = open_engine(bundle, "litert", threads=1)
    try:
        given = Attachments(images=(path,)) if kind == "image" else Attachments(audio=(path,))
        want = "".join(engine.send(prompt, GREEDY, TOKENS, given))
    finally:
        engine.close()
    assert report["turns"][-1]["text"].strip() == want.strip() != ""


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_that_fills_the_context_says_so(way: str, host: Host, nano_fp32: Path, tmp_path: Path) -> None:
    report = host.chat(nano_fp32, way, tmp_path / "session.json", "many words " * 239, tokens=1000)
    assert report["finishes"] == ["CONTEXT_FULL"]
    # 488 tokens of 512 are the prompt's, and the last that is drawn takes no place. LiteRT-LM ends earlier.
    assert way == "litert" or report["pieces"] == [25]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_limit_ends_an_answer(runtime: str, host: Host, nano_fp32: Path, tmp_path: Path) -> None:
    report = host.chat(nano_fp32, runtime, tmp_path / "session.json", PROMPTS[0], tokens=3)
    assert report["finishes"] == ["LENGTH"] and report["pieces"] == [3]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_conversation_beyond_the_context_is_told(runtime: str, host: Host, nano_fp32: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the bundle's context is 512: start anew"):
        host.chat(nano_fp32, runtime, tmp_path / "session.json", "many words " * 300)


@pytest.mark.parametrize("way", ["litert", "LLM_MODULE"])
def test_a_nul_in_a_kept_conversation_is_told(way: str, host: Host, nano_fp32: Path, tmp_path: Path) -> None:
    """Both libraries would answer what comes before it, without an error."""
    session = tmp_path / "session.json"
    keep(session, nano_fp32, ("USER", f"{PROMPTS[0]}\0 and a cat?"), ("MODEL", "A dog is a dog."))
    with pytest.raises(AssertionError, match="a NUL character in a prompt would end it there"):
        host.chat(nano_fp32, way, session, PROMPTS[1])


@pytest.mark.parametrize("way", WAYS)
def test_a_systems_turn_is_pythons(way: str, host: Host, nano_fp32: Path, tmp_path: Path) -> None:
    session, system = tmp_path / "session.json", "You are a river."
    keep(session, nano_fp32, ("SYSTEM", system))
    report = host.chat(nano_fp32, way, session, PROMPTS[0])
    want = python_answers(nano_fp32, "litert" if way == "litert" else "executorch", system, PROMPTS[:1])
    assert [turn["text"].strip() for turn in report["turns"] if turn["role"] == "MODEL"] == want


@pytest.mark.parametrize("way", WAYS)
def test_an_elastic_bundle_is_run_whole(way: str, host: Host, nano_fp32: Path, tmp_path: Path) -> None:
    """The app's choice has a name, and every engine runs the first size alone."""
    whole = {
        "parameters": 9, "layers": [0], "ffn_dims": [8], "core_bytes": 9, "least_device_ram": 9,
        "peak": {"load": 9, "prefill": 9, "decode": 9}, "signatures": ["decode"], "delegation": None, "parity": None,
    }  # fmt: skip
    sizes = [{"name": name, **whole} for name in ("full", "half")]
    bundle = edited(nano_fp32, tmp_path, lambda manifest: manifest.update(sizes=sizes))
    said = host.chat(bundle, way, tmp_path / "session.json", PROMPTS[0])["turns"][-1]["text"]
    assert said.strip() == python_answers(nano_fp32, "litert" if way == "litert" else "executorch")[0]


def test_a_context_shortened_for_want_of_memory_is_the_engines(host: Host, nano_int4: Path, tmp_path: Path) -> None:
    manifest = open_bundle(nano_int4).manifest
    # Two thirds of the caches' 2 MB are missing.
    free = max(manifest["memory"]["litert"]["peak"].values()) - manifest["kv"]["bytes"] * 2 // 3
    said = host.chat(nano_int4, "litert", tmp_path / "session.json", PROMPTS[0], free=free)["turns"][-1]["text"]
    assert said.strip() == python_answers(nano_int4, "litert")[0]
    with pytest.raises(AssertionError, match=r"has 12\d\d tokens, the bundle's context is 1024: start anew"):
        host.chat(nano_int4, "litert", tmp_path / "other.json", "many words " * 600, free=free)


def test_a_context_that_is_no_whole_chunk_can_be_filled(host: Host, nano_int4: Path, tmp_path: Path) -> None:
    """LiteRT-LM refuses a prompt whose last chunk of 256 is padded past the end of caches of 300."""
    bundle = edited(nano_int4, tmp_path, lambda manifest: manifest.update(context=300))
    report = host.chat(bundle, "litert", tmp_path / "session.json", "many words " * 135, tokens=2)
    assert report["finishes"] == ["LENGTH"]


def test_a_cache_that_comes_back_wrong_is_found_at_the_second_launch(
    host: Host, nano_int4: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"

    def launch(name: str) -> tuple[str, str | None]:
        report = host.chat(nano_int4, "litert", tmp_path / f"{name}.json", PROMPTS[0], cache=str(cache))
        return report["turns"][-1]["text"], report.get("notice")

    first = launch("first")
    (kept,) = (path for path in cache.rglob("*.xnnpack_cache") if re.search(r"_\d+\.xnnpack_cache$", path.name))
    good = kept.read_bytes()
    # Weights come back as others; the file's own description at both ends is as it was, or XNNPACK would see it.
    kept.write_bytes(good[:4096] + good[4096 : len(good) // 2][::-1] + good[len(good) // 2 :])
    second = launch("second")
    assert (first[1], second[1]) == (None, "CACHE_OFF") and first[0] == second[0]
    assert not kept.exists()


def edited(bundle: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy with another manifest; nobody signed it."""
    copy = folder / "edited"
    shutil.copytree(bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text("utf-8"))
    change(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    return copy


def test_a_conversation_kept_by_litert_lm_still_differs(nano_fp32: Path, tmp_path: Path) -> None:
    """When this fails the app may keep conversations: see ``docs/upstream/litert-lm-second-turn.md``."""
    text = (ROOT / "docs" / "upstream" / "litert-lm-second-turn.md").read_text("utf-8")
    script = tmp_path / "reproduce.py"
    script.write_text(text.split("```python\n")[1].split("```")[0], "utf-8")
    said = run(sys.executable, script, open_bundle(nano_fp32).file("litertlm"))
    assert "kept:  A dog is a dog." in said and "fresh: The dog is dogs." in said


def test_a_damaged_bundle_is_not_loaded(host: Host, nano_fp32: Path, tmp_path: Path) -> None:
    copy = tmp_path / "damaged"
    shutil.copytree(nano_fp32, copy)
    program = open_bundle(copy).file(ROLES["model"])
    data = bytearray(program.read_bytes())
    data[len(data) // 2] ^= 1
    program.write_bytes(data)
    with pytest.raises(AssertionError, match=rf"{re.escape(program.name)} differs from the hash"):
        host.chat(copy, "executorch", tmp_path / "session.json", PROMPTS[0])
