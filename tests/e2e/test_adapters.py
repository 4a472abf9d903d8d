"""Adapters at run time as a user has them: a bundle compiled for them, the adapter's file, and the answer with it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.cli.compile import main as compile_main
from g3n_compiler.cli.lora import main as lora_main
from g3n_compiler.cli.lora_file import folded
from g3n_compiler.cli.run import main as run_main
from g3n_compiler.errors import CheckpointError
from g3n_compiler.lower.litert.adapters import input_values
from g3n_compiler.lower.litert.opened import OpenedTextModel
from g3n_compiler.source import Source
from g3n_runtime.__main__ import main as runtime_main
from g3n_runtime.bundle import Bundle, open_bundle
from g3n_runtime.errors import EngineError
from g3n_runtime.litert.lora import NO_ADAPTER, TURNS, adapter_file
from tests.checkpoint.adapters import ATTENTION, write_adapter
from tests.conftest import make_tiny

PROMPT = "What is a river?"
COUNT = 8
STOP = (1, 106)


def call(verb: Any, *words: str | Path) -> Result:
    return CliRunner().invoke(verb, [str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint, a bundle of it in int4 that takes adapters, an adapter of rank 4 and its file."""
    folder = tmp_path_factory.mktemp("adapters")
    tiny = make_tiny(
        folder / "checkpoint",
        num_hidden_layers=3,
        num_kv_shared_layers=1,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        activation_sparsity_pattern=[0.95, 0.0, 0.0],
    )
    write_adapter(tiny.hf, folder / "adapter", target_modules=ATTENTION)
    options = [
        "--runtime",
        "litert",
        "--quant",
        "int4",
        "--lora-rank",
        "16",
        "--context",
        "96",
        "--prefill-lengths",
        "24",
    ]
    result = call(compile_main, "--checkpoint", tiny.directory, *options, "--out", folder / "bundle")
    assert result.exit_code == 0, result.output
    result = make(folder, folder / "adapter.tflite")
    assert result.exit_code == 0 and "10 matrices of rank 4, padded to 16" in result.output, result.output
    return folder


def make(folder: Path, out: Path) -> Result:
    return call(lora_main, folder / "bundle", folder / "adapter", "--checkpoint", folder / "checkpoint", "--out", out)


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return open_bundle(folder / "bundle")


def said(folder: Path, *options: str | Path) -> str:
    result = call(run_main, folder / "bundle", PROMPT, "--temperature", "0", "--max-tokens", str(COUNT), *options)
    assert result.exit_code == 0, result.output
    return result.stdout.removesuffix("\n")


def test_the_answer_with_an_adapter_is_the_graphs_own(
    folder: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its inputs made anew of the adapter and of the rotations that the checkpoint gives, without any file."""
    source = Source.open(folder / "checkpoint")
    rewrites = source.rewritten().rewrites
    assert rewrites is not None and TURNS in bundle.paths
    values = input_values(folded(source.adapted(folder / "adapter"), rewrites, 16), 16)
    tokenizer = load_tokenizer(folder / "checkpoint", source.text)
    ids = tokenizer.chat(PROMPT)
    own = []
    for adapter in (None, values):
        tokens = OpenedTextModel(bundle.file("litertlm"), adapter=adapter).greedy(ids, COUNT)
        stop = next((i for i, token in enumerate(tokens) if token in STOP), len(tokens))
        own.append(tokenizer.loaded().decode(tokens[:stop]))
    assert own[0] != own[1]
    assert [said(folder), said(folder, "--lora", folder / "adapter.tflite")] == own
    words = ["--lora", str(folder / "adapter.tflite"), "--temperature", "0", "--max-tokens", str(COUNT)]
    assert runtime_main([str(folder / "bundle"), PROMPT, *words]) == 0
    assert capsys.readouterr().out == own[1] + "\n"


def test_the_bundle_says_what_it_is(folder: Path, bundle: Bundle) -> None:
    assert bundle.manifest["lora"] == {"rank": 16}
    assert any(part["name"] == "adapter" and part["bytes"] for part in bundle.manifest["memory"]["litert"]["parts"])
    assert {path.name for path in bundle.paths.values()} == {
        "checkpoint-int4-lora16.litertlm",
        "checkpoint-int4-lora16-no-adapter.tflite",
        "checkpoint-int4-lora16-turns.safetensors",
    }
    with_adapter = [c for c in bundle.manifest["parity"]["checks"] if "with an adapter" in c["name"]]
    assert len(with_adapter) >= 2 and all(c["passed"] for c in with_adapter)
    assert bundle.open_file(NO_ADAPTER).size < 1 << 17
    page = (folder / "bundle" / "report.html").read_text(encoding="utf-8")
    assert "LoraConfig" in page and "litert-lm run" not in page


def test_the_same_adapter_gives_the_same_file(folder: Path, tmp_path: Path) -> None:
    assert make(folder, tmp_path / "again.tflite").exit_code == 0
    assert (tmp_path / "again.tflite").read_bytes() == (folder / "adapter.tflite").read_bytes()


def test_another_checkpoint_than_the_bundles_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "checkpoint", tmp_path / "checkpoint")
    weights = tmp_path / "checkpoint" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    words = ["--checkpoint", tmp_path / "checkpoint", "--out", tmp_path / "out.tflite"]
    result = call(lora_main, folder / "bundle", folder / "adapter", *words)
    assert result.exit_code == CheckpointError.exit_code and "is not what the bundle came from" in result.output
    assert not (tmp_path / "out.tflite").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["lora"].update(rank=32), "another bundle"),
        (lambda m: m["provenance"]["checkpoint"].update({"config.json": "0" * 64}), "another bundle"),
        (lambda m: m["files"][2].update(sha256="0" * 64), "another bundle"),
        (lambda m: m["model"]["slice"].update(kept=[0, 1, 2]), "another bundle"),
        (lambda m: m.pop("lora"), "compile it with --lora-rank"),
    ],
    ids=["rank", "checkpoint", "rotations", "slice", "none"],
)
def test_a_file_is_refused_for_another_bundle(folder: Path, change: Any, words: str) -> None:
    bundle = open_bundle(folder / "bundle")
    assert adapter_file(bundle, folder / "adapter.tflite") is not None
    assert bundle.manifest["files"][2]["role"] == TURNS
    change(bundle.manifest)
    with pytest.raises(EngineError, match=words):
        adapter_file(bundle, folder / "adapter.tflite")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content[:-100], "was not written by g3n-lora, or is not whole"),
        (lambda content: content[:20], "was not written by g3n-lora, or is not whole"),
        (lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:], "is damaged"),
        (lambda content: content.replace(b'"base": "', b'"base"; "'), "the end of .* is damaged"),
    ],
    ids=["cut", "short", "changed", "no JSON"],
)
def test_a_damaged_file_is_refused(folder: Path, change: Any, words: str, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "adapter.tflite").write_bytes(change((folder / "adapter.tflite").read_bytes()))
    with pytest.raises(EngineError, match=words):
        adapter_file(bundle, tmp_path / "adapter.tflite")


def test_a_file_of_any_size_is_not_read(bundle: Bundle, tmp_path: Path) -> None:
    with (tmp_path / "adapter.tflite").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(EngineError, match="at most"):
        adapter_file(bundle, tmp_path / "adapter.tflite")


def test_a_file_that_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    result = call(run_main, folder / "bundle", PROMPT, "--lora", tmp_path / "gone.tflite")
    assert result.exit_code == EngineError.exit_code and "gone.tflite" in result.output
