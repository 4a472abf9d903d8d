"""The doctor tells what a folder is, and everything that a compile would refuse, in seconds."""

from __future__ import annotations

import json
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from g3n_compiler import errors
from g3n_compiler.checkpoint.chat_template import GEMMA
from g3n_compiler.checkpoint.reader import Checkpoint
from g3n_compiler.cli import inspect
from g3n_compiler.doctor import Findings, examine, values
from g3n_compiler.doctor.model import _size
from g3n_compiler.models.gemma3n.published import E2B, E4B, published, published_slices
from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.source import Source
from tests.conftest import TinyModel
from tests.documented import examples, says

Edit = Callable[[Path, Callable[[dict[str, Any]], None]], None]
TOOLCHAINS = {
    "ai_edge_litert", "executorch", "litert_lm", "litert_torch", "matplotlib", "onnx", "onnxruntime", "transformers",
}  # fmt: skip
PROGRAM = f"""
import sys
from g3n_compiler.cli.inspect import main
try:
    main(["--checkpoint", "nano", "--format", "json", "--quiet"])
except SystemExit as end:
    print("ended with", end.code, *sorted({TOOLCHAINS!r} & set(sys.modules)))
"""


def silent(_: str) -> None:
    pass


def look(directory: Path, weights: bool = False) -> Findings:
    return examine(directory, weights, silent)


def fact(findings: Findings, section: str, what: str) -> str:
    (found,) = [f.found for f in findings.facts if (f.section, f.what) == (section, what)]
    return found


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(inspect.main, list(arguments))
    assert "Traceback" not in result.output, result.exception
    return result.exit_code, result.output


def test_nano_is_told_in_seconds_without_a_toolchain() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Of the processor, not by the clock: other tests run beside this one.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10
    told, end = done.stdout.splitlines()
    assert end == "ended with 0", done.stderr
    found = json.loads(told)
    assert found["compiles"] and all(check["passed"] for check in found["checks"]) and found["weights"] is None
    assert found["facts"]["what it is"] == {
        "family": "Gemma 3n",
        "size": "of no published size",
        "text model": "10 layers, FFNs of 512, hidden size 128",
        "vocabulary": "4,352 ids",
        "towers": "vision, audio",
    }
    assert found["facts"]["weights"]["dtype"] == "bfloat16 (425)" and found["notes"] == []
    assert found["facts"]["chat template"]["whose"] == "writes a turn as Gemma's does"
    assert found["facts"]["chat template"]["one turn"].startswith("<bos><start_of_turn>user\nHello<end_of_turn>")


def test_one_refusal_does_not_hide_the_others(tiny_copy: Path, edit_json: Edit) -> None:
    tensors = load_file(tiny_copy / "model.safetensors")
    del tensors["model.norm.weight"]
    tensors["model.layers.0.mlp.extra.weight"] = torch.zeros(2, 2)
    save_file(tensors, tiny_copy / "model.safetensors")
    edit_json(tiny_copy / "generation_config.json", lambda c: c.update(top_p=7.0))
    (tiny_copy / "processor_config.json").write_text('{"image_processor": {"resample": 99}}')
    (tiny_copy / "calibration.json").write_text("{}")
    findings = look(tiny_copy)
    refused = {c.name: c.kind for c in findings.refusals}
    assert refused == {
        "every tensor": "UnknownTensor",
        "calibration": "CheckpointError",
        "tokenizer, template and sampler": "WrongModel",
        "image processor": "WrongModel",
    }
    code, output = run("--checkpoint", str(tiny_copy))
    assert code == findings.exit_code == errors.UnknownTensor.exit_code and "it would not compile" in output
    for check in findings.refusals:
        assert check.error is not None and check.error in output.replace("\n", "")
    code, output = run("--checkpoint", str(tiny_copy), "--format", "json", "--quiet")
    found = json.loads(output)
    assert code == found["exit_code"] and not found["compiles"]
    assert [c["error"] for c in found["checks"] if c["error"]] == [c.error for c in findings.refusals]


def test_what_needs_what_was_refused_is_not_called_right(tiny_copy: Path, edit_json: Edit) -> None:
    edit_json(tiny_copy / "config.json", lambda c: c.update(model_type="llama"))
    findings = look(tiny_copy)
    assert [c.kind for c in findings.refusals] == ["WrongModel"] and findings.exit_code == errors.WrongModel.exit_code
    skipped = {c.name for c in findings.checks if c.skipped}
    assert {"text model", "every tensor", "token ids"} <= skipped and not any(c.passed for c in findings.checks[2:3])
    (tiny_copy / "model.safetensors").write_bytes(b"\xff" * 100)
    kinds = [c.kind for c in look(tiny_copy).refusals]
    assert kinds == ["WrongModel", "BadHeader"]


def test_the_same_text_is_refused_as_in_a_compile(tiny_copy: Path) -> None:
    (tiny_copy / "tokenizer.json").unlink()
    findings = look(tiny_copy)
    assert findings.exit_code == errors.TokenizerError.exit_code == 17
    assert "tokenizer.json is missing from" in str(findings.refusals[0].error)


def test_an_id_that_the_tokenizer_lacks_is_found(tiny_copy: Path, edit_json: Edit) -> None:
    def forget(content: dict[str, Any]) -> None:
        content["added_tokens"] = [t for t in content["added_tokens"] if t["id"] != 4351]
        content["model"]["vocab"] = {k: v for k, v in content["model"]["vocab"].items() if v != 4351}

    edit_json(tiny_copy / "tokenizer.json", forget)
    edit_json(tiny_copy / "config.json", lambda c: c.update(eos_token_id=[1, 4351]))
    edit_json(tiny_copy / "generation_config.json", lambda c: c.update(eos_token_id=[1, 4351]))
    told = [c for c in look(tiny_copy).checks if c.name == "token ids" or c.name.startswith("tokenizer,")]
    assert any(c.error is not None and c.exit_code == errors.TokenizerError.exit_code for c in told)


def test_who_saved_it_and_what_lies_beside(tiny_copy: Path, edit_json: Edit) -> None:
    edit_json(
        tiny_copy / "config.json",
        lambda c: c.update(unsloth_version="2025.7.3", quantization_config={"quant_method": "bitsandbytes"}),
    )
    for name in ("pytorch_model.bin", "modeling.py", "q4.gguf"):
        (tiny_copy / name).write_text("")
    (tiny_copy / "checkpoint-9").mkdir()
    (tiny_copy / "checkpoint-9" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    (tiny_copy / "tokenizer.model").unlink()
    edit_json(
        tiny_copy / "tokenizer_config.json",
        lambda c: c.update(chat_template=[{"name": "default", "template": GEMMA}, {"name": "tools", "template": "y"}]),
    )
    findings = look(tiny_copy)
    assert fact(findings, "saved by", "unsloth_version") == "2025.7.3"
    assert fact(findings, "saved by", "safetensors metadata") == "format: pt"
    assert fact(findings, "saved by", "quantization_config") == "bitsandbytes"
    assert fact(findings, "adapters", "checkpoint-9").startswith("LORA of rank 8")
    assert fact(findings, "tokenizer", "tokenizer.model") == "is made from tokenizer.json"
    assert fact(findings, "chat template", "found in") == "chat_template.jinja"
    notes = " ".join(findings.notes)
    words_told = ("not tools", "tokenizer_config.json is not used")
    for words in ("pytorch_model.bin", "modeling.py", "q4.gguf", "--lora", *words_told, "float32"):
        assert words in notes, words


def test_another_models_tokenizer_is_named(tiny_copy: Path, edit_json: Edit) -> None:
    def rename(content: dict[str, Any]) -> None:
        for token in content["added_tokens"]:
            if token["id"] == 6:
                content["model"]["vocab"]["<|im_end|>"] = content["model"]["vocab"].pop(token["content"])
                token["content"] = "<|im_end|>"

    edit_json(tiny_copy / "tokenizer.json", rename)
    findings = look(tiny_copy)
    assert fact(findings, "tokenizer", "tokenizer.model") == "is made from tokenizer.json"
    assert any("it calls token 6 '<unused1>', which is '<|im_end|>'" in note for note in findings.notes)


def test_a_template_of_another_form_is_shown(tiny_copy: Path) -> None:
    (tiny_copy / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}[{{ m.content }}]{% endfor %}"
    )
    findings = look(tiny_copy)
    assert fact(findings, "chat template", "one turn") == "<bos>[Hello]"
    assert "otherwise than Gemma's" in fact(findings, "chat template", "whose")


def test_published_sizes_are_known_by_their_shape(tiny: TinyModel) -> None:
    source = tiny.open()
    shape = source.whole
    source.close()

    def size(widths: tuple[int, ...]) -> str:
        return _size(published(), replace(shape, num_layers=len(widths), ffn_dims=widths))  # type: ignore[type-var]

    assert size((E2B[1],) * E2B[0]) == "E2B, as published" and size((E4B[1],) * E4B[0]) == "E4B, as published"
    assert size(published_slices()["e2.98b-layer"].ffn_dims) == "the published slice e2.98b-layer"
    assert size((128,) * 10) == "of no published size"


def planted(tmp_path: Path) -> Checkpoint:
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(64, 32, generator=generator)
    nan, inf, column, row, vector = (plain.clone() for _ in range(5))
    nan[63, 31], inf[0, 0] = float("nan"), float("-inf")
    column[:, 5] *= 40
    row[17] *= 20
    norm = vector[:, 0].abs() + 1.0
    norm[9] = 100.0
    tensors = {
        "plain": plain, "nan": nan, "inf": inf, "column": column, "row": row, "norm": norm,
        "zero": torch.zeros(64, 32), "constant": torch.full((16, 16), 2.0), "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 4),
    }  # fmt: skip
    save_file({name: t.to(torch.bfloat16) for name, t in tensors.items()}, tmp_path / "model.safetensors")
    return Checkpoint(tmp_path)


@pytest.mark.parametrize("block", [1 << 20, 96, 1])
def test_odd_values_are_found_whatever_is_read_at_once(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values, "BLOCK", block)
    checkpoint = planted(tmp_path)
    found = values.measure(checkpoint, silent)
    checkpoint.close()
    by_name = {v.name: v for v in found}
    assert {v.name for v in found if not v.finite} == {"nan", "inf"} == {v.name for v in found[:2]}
    assert {v.name for v in found if v.odd is not None} == {"nan", "inf", "zero", "constant", "column", "row", "norm"}
    assert [v.name for v in found[2:5]] == ["norm", "column", "row"]
    column, row, norm = by_name["column"].columns, by_name["row"].rows, by_name["norm"].rows
    assert column is not None and (column.outliers, column.worst) == (1, 5) and 20 < column.ratio < 60
    assert row is not None and (row.outliers, row.worst) == (1, 17) and 10 < row.ratio < 40
    assert norm is not None and (norm.outliers, norm.worst) == (1, 9)
    assert by_name["zero"].odd == "all zero" and by_name["constant"].odd == "all 2"
    plain = by_name["plain"]
    assert plain.rms == pytest.approx(1.0, rel=0.1) and plain.largest == pytest.approx(3.5, rel=0.3)
    json.loads(json.dumps([v.as_dict() for v in found], allow_nan=False))


def test_a_nan_is_refused_after_one_reading(tiny_copy: Path) -> None:
    tensors = load_file(tiny_copy / "model.safetensors")
    name = "model.layers.3.mlp.down_proj.weight"
    tensors[name][5, 5] = float("inf")
    save_file(tensors, tiny_copy / "model.safetensors")
    assert look(tiny_copy).exit_code == 0
    code, output = run("--checkpoint", str(tiny_copy), "--weights")
    assert code == errors.NotFinite.exit_code and name in output and "a NaN or an infinity" in output
    source = Source.open(tiny_copy)
    total, lines = sum(e.nbytes for e in source.checkpoint.entries.values()), list[str]()
    source.close()
    found = examine(tiny_copy, True, lines.append)
    assert found.values is not None and any(f"{total / 1e6:.1f} MB" in line for line in lines)


def test_what_was_typed_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert run("--weights")[0] == 2 and run("bundle", "--checkpoint", "nano")[0] == 2
    code, output = run("--checkpoint", "nowhere")
    assert code == errors.CheckpointError.exit_code and "no folder nowhere" in output
    code, output = run("--checkpoint", "nobody/has-this-model")
    assert code == errors.HubError.exit_code and "is not in the hub's cache" in output
    assert run("--checkpoint", str(checkpoint_dir()), "--quiet")[0] == 0


@pytest.mark.parametrize("example", examples("docs/checkpoints.md"), ids=lambda e: e.command)
def test_the_page(example: Any) -> None:
    program, *arguments = shlex.split(example.command)
    assert program == "g3n-inspect"
    code, output = run(*arguments, "--quiet")
    assert code == 0 and says(example.shown, output), output
