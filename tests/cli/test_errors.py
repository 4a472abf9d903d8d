"""Every way to be wrong has its own message and exit code, and no traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from g3n_compiler import errors
from g3n_compiler.checkpoint.reader import SINGLE
from g3n_compiler.cli import bench as bench_cli
from g3n_compiler.cli import calibrate as calibrate_cli
from g3n_compiler.cli import compile as compile_cli
from g3n_compiler.cli import inspect as inspect_cli
from g3n_compiler.cli import push as push_cli
from g3n_compiler.cli import run as run_cli
from g3n_compiler.cli import verify as verify_cli
from g3n_compiler.cli.common import portable_command
from g3n_runtime.bundle import MANIFEST, open_bundle
from tests.conftest import make_tiny

Edit = Callable[[Path, Callable[[dict[str, Any]], None]], None]


def run_compile(*arguments: str | Path) -> Result:
    return CliRunner().invoke(compile_cli.main, [str(a) for a in arguments])


def expect(result: Result, error: type[errors.G3nError], *words: str) -> None:
    assert result.exit_code == error.exit_code, result.output + repr(result.exception)
    assert "error:" in result.output and "Traceback" not in result.output
    for word in words:
        assert word in result.output


def test_exit_codes_are_distinct() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.G3nError)]
    own = [k for k in kinds if "exit_code" in vars(k)]  # a narrower kind may keep its parent's code
    assert len({k.exit_code for k in own}) == len(own)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        pytest.param(["--target", "toaster"], errors.TargetError, ["toaster", "pixel"], id="unknown target"),
        pytest.param(["--size", "e9b"], errors.CheckpointError, ["e9b", "e4b"], id="unknown size"),
        pytest.param(["--size", "E2"], errors.CheckpointError, ["did you mean e2b?"], id="nearly a size"),
        pytest.param(["--target", "pixle"], errors.TargetError, ["did you mean pixel?"], id="nearly a target"),
        pytest.param(["--quant", "int4_lean"], errors.TargetError, ["did you mean int4-lean?"], id="nearly a recipe"),
        pytest.param(["--tools"], errors.TargetError, ["--modalities text"], id="tools beside towers"),
        pytest.param(
            ["--tools", "--modalities", "text", "--runtime", "executorch"],
            errors.TargetError,
            ["--runtime litert"],
            id="tools in an engine that reads no calls",
        ),
        pytest.param(
            ["--runtime", "litert", "--lora-rank", "8"], errors.TargetError, ["16 and 32"], id="a rank of no engine"
        ),
        pytest.param(
            ["--runtime", "both", "--lora-rank", "16"],
            errors.TargetError,
            ["--runtime litert"],
            id="adapters in an engine that adds none",
        ),
        pytest.param(
            ["--target", "pixel", "--lora-rank", "16"], errors.TargetError, ["--target host"], id="adapters on a GPU"
        ),
        pytest.param(
            ["--runtime", "litert", "--lora-rank", "16", "--elastic", "full,half"],
            errors.TargetError,
            ["--elastic"],
            id="adapters of several sizes",
        ),
        pytest.param(
            ["--runtime", "litert", "--lora-rank", "16", "--lora", "absent"],
            errors.TargetError,
            ["does not go with --lora"],
            id="adapters of merged weights",
        ),
        pytest.param(
            ["--single-pte", "stock", "--runtime", "litert"],
            errors.TargetError,
            ["--single-pte", "litert", "--runtime executorch"],
            id="a single program for LiteRT",
        ),
        pytest.param(["--single-pte", "stok"], errors.TargetError, ["did you mean stock?"], id="nearly a form"),
        pytest.param(["--single-pte", "rows,rows"], errors.TargetError, ["twice"], id="a form twice"),
        pytest.param(
            ["--single-pte", "stock", "--elastic", "full,half"],
            errors.TargetError,
            ["--elastic"],
            id="single and elastic",
        ),
        pytest.param(
            ["--single-pte", "stock", "--context", "256", "--prefill-lengths", "128"],
            errors.ContextError,
            ["--single-pte stock", "257 rows", "--context 257"],
            id="a picture longer than the context",
        ),
        pytest.param(["--modalities", "text,visoin"], errors.TargetError, ["did you mean vision?"], id="a typo"),
        pytest.param(
            ["--runtime", "litert", "--elastic", "full,haf"],
            errors.SliceError,
            ["did you mean half?"],
            id="nearly nested",
        ),
        pytest.param(
            ["--target", "toaster", "--checkpoint", "absent"], errors.TargetError, ["toaster"], id="typed before read"
        ),
        pytest.param(
            ["--quant", "int3", "--size", "e2b"], errors.TargetError, ["int3"], id="a recipe before a download"
        ),
        pytest.param(
            ["--size", "e4b", "--budget", "2 elephants"], errors.SliceError, ["2.5gb"], id="a limit before a download"
        ),
        pytest.param(
            ["--size", "e2b", "--lora", "absent"],
            errors.CheckpointError,
            ["there is no folder absent"],
            id="an adapter before a download",
        ),
        pytest.param(
            ["--checkpoint", "gone", "--lora", "absent"],
            errors.CheckpointError,
            ["there is no folder gone"],
            id="a checkpoint before its adapter",
        ),
        pytest.param(["--quant", "int3"], errors.TargetError, ["int3", "int4"], id="unknown recipe"),
        pytest.param(["--context", "5000"], errors.ContextError, ["5000", "4096"], id="context beyond the model's"),
        pytest.param(
            ["--context", "100", "--prefill-lengths", "100"], errors.ContextError, ["99"], id="prefill of all"
        ),
        pytest.param(
            ["--target", "pixel", "--runtime", "executorch"], errors.TargetError, ["android"], id="wrong runtime"
        ),
        pytest.param(["--target", "pixel", "--soc", "Tensor_G9"], errors.TargetError, ["Tensor_G5"], id="unknown chip"),
        pytest.param(["--target", "pixel", "--soc", "Tensor_G5"], errors.TargetError, ["SDK"], id="no Tensor SDK"),
        pytest.param(["--target", "snapdragon"], errors.TargetError, ["QNN_SDK_ROOT"], id="no QNN SDK"),
        pytest.param(["--target", "android", "--soc", "Tensor_G5"], errors.TargetError, ["pixel"], id="chip elsewhere"),
        pytest.param(["--modalities", "smell"], errors.TargetError, ["smell"], id="unknown modality"),
        pytest.param(["--modalities", "vision"], errors.TargetError, ["text"], id="no text"),
        pytest.param(
            ["--size", "nano", "--checkpoint", "x"], errors.CheckpointError, ["leave --size out"], id="not nano"
        ),
        pytest.param(["--checkpoint", "absent"], errors.CheckpointError, ["absent"], id="no folder"),
        pytest.param(["--size", "e2b", "--target", "pixel"], errors.HubError, ["--checkpoint DIR"], id="no hub"),
    ],
)
def test_refused_at_once(
    arguments: Sequence[str],
    error: type[errors.G3nError],
    words: Sequence[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QNN_SDK_ROOT", raising=False)
    monkeypatch.delenv("GOOGLE_TENSOR_COMPILER_LIB", raising=False)
    expect(run_compile(*arguments), error, *words)
    assert list(tmp_path.iterdir()) == []


def test_broken_checkpoints(tiny_copy: Path, tmp_path: Path, edit_json: Edit) -> None:
    weights = tiny_copy / SINGLE
    good = weights.read_bytes()

    def attempt() -> Result:
        return run_compile("--checkpoint", tiny_copy, "--out", tmp_path / "out")

    weights.unlink()
    expect(attempt(), errors.MissingShard, "model.safetensors")
    weights.write_bytes(good[:-100])
    expect(attempt(), errors.TruncatedShard, "promises")
    weights.write_bytes((1 << 50).to_bytes(8, "little") + good[8:])
    expect(attempt(), errors.BadHeader, "claims")
    weights.write_bytes(good)
    (tiny_copy / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    expect(attempt(), errors.TokenizerError, "tokenizer.json")
    (tmp_path / "tokenizer.json").rename(tiny_copy / "tokenizer.json")
    tensors = load_file(weights)
    save_file({n: t for n, t in tensors.items() if n != "model.norm.weight"}, weights)
    expect(attempt(), errors.UnknownTensor, "model.norm")
    edit_json(tiny_copy / "config.json", lambda config: config.update(model_type="llama"))
    expect(attempt(), errors.WrongModel, "llama")
    assert not (tmp_path / "out").exists()


def test_checkpoint_of_another_size_than_named(tiny_copy: Path, tmp_path: Path) -> None:
    result = run_compile("--size", "e2b", "--checkpoint", tiny_copy, "--out", tmp_path / "out")
    expect(result, errors.WrongModel, "10 layers", "leave --size out")


@pytest.mark.parametrize(
    ("runtime", "name"),
    [
        ("litert", "model.layers.2.mlp.up_proj.weight"),
        ("executorch", "model.layers.2.mlp.up_proj.weight"),
        ("executorch", "model.embed_tokens_per_layer.weight"),
    ],
)
def test_nan_weight(runtime: str, name: str, tmp_path: Path) -> None:
    model = make_tiny(
        tmp_path / "checkpoint",
        num_hidden_layers=3,
        num_kv_shared_layers=1,
        activation_sparsity_pattern=[0.0] * 3,
        layer_types=["sliding_attention", "full_attention", "full_attention"],
    )
    tensors = load_file(model.directory / SINGLE)
    tensors[name][1, 2] = float("nan")
    save_file(tensors, model.directory / SINGLE)
    result = run_compile(
        "--checkpoint", model.directory, "--runtime", runtime, "--context", "64", "--prefill-lengths", "16",
        "--out", tmp_path / "out" / "bundle",
    )  # fmt: skip
    expect(result, errors.NotFinite, name.removeprefix("model."))
    assert not (tmp_path / "out").exists()


def work_folder(process: subprocess.Popen[str], out: Path) -> Path:
    """Where a compile that was just started does its work, once it has begun."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (found := out.with_name(f".{out.name}.g3n-work")).exists():
            return found
        time.sleep(0.05)
    raise AssertionError("the compile ended before it began to write")


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_ended_in_the_middle_leaves_nothing_like_a_bundle(sent: signal.Signals, code: int, tmp_path: Path) -> None:
    out = tmp_path / "out" / "nano"
    command = [sys.executable, "-m", "g3n_compiler.cli.compile", "--runtime", "litert", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    work = work_folder(process, out)
    if sent is signal.SIGKILL:
        time.sleep(1)  # into the conversion, which may swallow an interrupt but not this
    process.send_signal(sent)
    _, said = process.communicate(timeout=120)
    assert process.returncode == code and "Traceback" not in said
    assert sent is signal.SIGKILL or "interrupted" in said
    assert list(out.parent.iterdir()) == [work]  # hidden, and where the same command goes on
    for folder in (work, work / "bundle"):
        with pytest.raises(errors.BundleError):
            open_bundle(folder)


def test_not_a_bundle(tmp_path: Path) -> None:
    for command in (inspect_cli.main, run_cli.main):
        expect(CliRunner().invoke(command, [str(tmp_path)]), errors.BundleError, "not a g3n bundle")
    (tmp_path / MANIFEST).write_text(json.dumps({"schema_version": 99}), encoding="utf-8")
    expect(CliRunner().invoke(inspect_cli.main, [str(tmp_path)]), errors.BundleError, "update g3n")


@pytest.mark.parametrize("verb", [bench_cli, inspect_cli, push_cli, run_cli, verify_cli])
def test_a_file_of_a_bundle_leads_to_its_folder(verb: Any, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("{}", encoding="utf-8")
    (tmp_path / "model.litertlm").write_bytes(b"")
    for name in (MANIFEST, "model.litertlm"):
        result = CliRunner().invoke(verb.main, [str(tmp_path / name)])
        expect(result, errors.BundleError, "is one file of a bundle: name its folder, ", str(tmp_path))
    (tmp_path / MANIFEST).unlink()
    alone = CliRunner().invoke(verb.main, [str(tmp_path / "model.litertlm")])
    expect(alone, errors.BundleError, "model.litertlm is not a g3n bundle, but a file: name a folder")
    absent = tmp_path / "absent"
    expect(CliRunner().invoke(verb.main, [str(absent)]), errors.BundleError, f"there is no folder {absent}")


def test_calibrate_tells_what_was_typed_before_it_looks_for_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "examples.jsonl").write_text("", encoding="utf-8")
    out = ["--out", str(tmp_path / "out"), "--size", "e2b"]
    known, absent = str(tmp_path / "examples.jsonl"), str(tmp_path / "absent")
    expect(CliRunner().invoke(calibrate_cli.main, [known, "--quant", "int5", *out]), errors.TargetError, "int5")
    expect(CliRunner().invoke(calibrate_cli.main, [absent, *out]), errors.ExampleError, "absent is missing")


def test_command_in_the_manifest_names_no_machine() -> None:
    command = portable_command(["/home/me/.venv/bin/g3n-compile", "--checkpoint", "/data/secret/gemma", "--out=/x/y"])
    assert command == "g3n-compile --checkpoint gemma --out=y"
    assert os.sep not in command
