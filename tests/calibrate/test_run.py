"""The whole calibration on a tiny checkpoint: what changes and what does not, kills, and what is refused."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import cast

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from g3n_compiler.calibrate import run as calibrating
from g3n_compiler.calibrate import weights as calibrating_weights
from g3n_compiler.calibrate.run import calibrate
from g3n_compiler.checkpoint.calibrated import RECORD, check_calibration, read_calibration
from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.cli.calibrate import main
from g3n_compiler.compile import CompileOptions, compile_bundle
from g3n_compiler.errors import (
    CheckpointError,
    DiskError,
    ExampleError,
    LossError,
    NotFinite,
    NotOurs,
    SourceChanged,
    TargetError,
)
from g3n_compiler.models.registry import text_weights
from g3n_compiler.nano import checkpoint_dir, heldout_path
from g3n_compiler.quantize.recipe import get_recipe
from g3n_compiler.quantize.rows import fake_quantize
from g3n_compiler.slice.choose import SliceOptions
from g3n_compiler.source import Source
from g3n_compiler.verify.held import own_held_texts
from g3n_compiler.verify.reference import Reference
from g3n_runtime.bundle import open_bundle
from tests.bundle.folders import content
from tests.calibrate.conftest import EXAMPLES, bfloat16_shards, compiled, edit, silent, tensors
from tests.fakes import FakeBackend

REWRITTEN = ("pre_feedforward_layernorm", "correct_output_scale", "per_layer_input_gate", "per_layer_projection.",
             "per_layer_projection_norm", "embed_tokens_per_layer", "laurel.linear")  # fmt: skip
"""Parts of the names of tensors in which factors are moved; those of int4 matrices apart."""


@pytest.fixture(scope="module")
def calibrated(source: Path, examples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    destination = tmp_path_factory.mktemp("out") / "calibrated"
    calibrate(source, examples, "int4", destination, silent)
    return destination


def test_int4_matrices_lie_on_the_grid_and_the_rest_is_rewritten_or_the_same(source: Path, calibrated: Path) -> None:
    """A factor is a power of two, so that what was only rewritten has the same digits."""
    before, after = tensors(source), tensors(calibrated)
    assert before.keys() == after.keys()
    opened, recipe = Source.open(calibrated), get_recipe("int4")
    rounded = {
        opened.tensor_name(spec.tensor): recipe.scheme(spec)
        for spec in text_weights(opened.text).values()
        if spec.role in ("attention", "ffn")
    }
    moved = 0
    for name, value in after.items():
        assert value.dtype == before[name].dtype
        if name in rounded:
            assert torch.equal(fake_quantize(value.float(), rounded[name]), value.float()), name
        elif any(part in name for part in REWRITTEN):
            was, now = torch.frexp(before[name].float()), torch.frexp(value.float())
            assert torch.equal(was.mantissa, now.mantissa), name
            moved += int((was.exponent != now.exponent).any())
        else:
            assert torch.equal(value, before[name]), name
    assert moved > 20


def test_it_is_rewritten_by_what_the_examples_say_and_not_again(source: Path, calibrated: Path) -> None:
    """The factors are not those that the weights alone tell; the bundle takes the checkpoint as it is."""
    record = read_calibration(calibrated)
    assert record is not None and record.rewritten
    name = "model.layers.4.pre_feedforward_layernorm.weight"
    by_weights = Source.open(source).rewritten().read_relative(name.removeprefix("model."))
    assert not torch.equal(tensors(calibrated)[name], tensors(source)[name])
    assert not torch.equal(tensors(calibrated)[name], by_weights)


def test_nano_keeps_more_of_its_english(tmp_path: Path) -> None:
    """Perplexity of held-out documents that are not among the examples."""
    documents = [json.loads(line) for line in heldout_path().read_text("utf-8").splitlines()]
    path = tmp_path / "examples.jsonl"
    path.write_text("\n".join(json.dumps({"text": d["text"]}) for d in documents[-48:]), encoding="utf-8")
    calibrate(checkpoint_dir(), path, "int4", tmp_path / "calibrated", silent)
    plain, better = Source.open(checkpoint_dir()), Source.open(tmp_path / "calibrated")
    tokenizer, recipe = load_tokenizer(plain.directory, plain.text), get_recipe("int4")
    texts = [[tokenizer.bos_id, *tokenizer.encode(d["text"])] for d in documents[:12]]

    def nats(reference: Reference) -> float:
        total = 0.0
        for ids in texts:
            logits = reference.logits(ids[:-1])
            total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum"))
        return total / sum(len(ids) - 1 for ids in texts)

    exact, rounded, calibrated = nats(Reference(plain)), nats(Reference(plain, recipe)), nats(Reference(better, recipe))
    assert calibrated - exact < 0.7 * (rounded - exact)


def test_the_record_names_its_source(source: Path, calibrated: Path) -> None:
    record = read_calibration(calibrated)
    assert record is not None
    assert (record.recipe, record.examples, record.source) == ("int4", 3, Source.open(source).checkpoint.sha256())
    assert record.matrices == 10 * 5 + 5 * 2


def test_some_rows_tell_the_error_of_all(
    source: Path, examples: Path, calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrating_weights, "ERROR_ROWS", 24)
    few = calibrate(source, examples, "int4", tmp_path / "few", silent)
    whole = read_calibration(calibrated)
    assert whole is not None and few.error != whole.error == pytest.approx(few.error, rel=0.1)
    assert content(tmp_path / "few").keys() == content(calibrated).keys()
    after, other = tensors(calibrated), tensors(tmp_path / "few")
    assert all(torch.equal(value, other[name]) for name, value in after.items())


def test_a_bundle_says_that_it_was_calibrated(calibrated: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    options = CompileOptions(checkpoint=calibrated, runtime="litert", context=128, out=out)
    compile_bundle(options, silent, lambda runtime: FakeBackend(runtime))
    found, record = open_bundle(out).manifest["provenance"]["calibration"], read_calibration(calibrated)
    assert record is not None and found == asdict(record)
    manifest = open_bundle(out).manifest
    assert manifest["recipe"]["rewritten"] is False and manifest["loss"]["rewritten"] is None


def test_the_same_inputs_give_the_same_bytes_even_after_a_kill(
    source: Path, examples: Path, calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounded: list[str] = []
    original = calibrating.CalibratingWeights._round

    def killed(self: calibrating.CalibratingWeights, name: str, x: torch.Tensor, path: Path) -> None:
        if len(rounded) == 17:
            path.write_bytes(b"half a file")
            raise KeyboardInterrupt
        rounded.append(name)
        original(self, name, x, path)

    def counted(self: calibrating.CalibratingWeights, name: str, x: torch.Tensor, path: Path) -> None:
        rounded.append(name)
        original(self, name, x, path)

    destination = tmp_path / "again"
    monkeypatch.setattr(calibrating.CalibratingWeights, "_round", killed)
    with pytest.raises(KeyboardInterrupt):
        calibrate(source, examples, "int4", destination, silent)
    assert not destination.exists()
    monkeypatch.setattr(calibrating.CalibratingWeights, "_round", counted)
    record = calibrate(source, examples, "int4", destination, silent)
    assert len(rounded) == len(set(rounded)) == record.matrices
    for path in calibrated.iterdir():
        assert (destination / path.name).read_bytes() == path.read_bytes(), path.name
    assert [p.name for p in tmp_path.iterdir()] == ["again"]


def test_several_shards_and_bfloat16(source: Path, examples: Path, tmp_path: Path) -> None:
    folder = bfloat16_shards(source, tmp_path / "shards")
    whole = tensors(folder)
    calibrate(folder, examples, "int4", tmp_path / "out", silent)
    after = tensors(tmp_path / "out")
    assert after.keys() == whole.keys() and all(value.dtype == torch.bfloat16 for value in after.values())
    changed = {name for name in whole if not torch.equal(after[name], whole[name])}
    rounded = {name for name in changed if ("self_attn." in name or ".mlp." in name) and "_proj" in name}
    assert len(rounded) == 60 and all(any(part in name for part in REWRITTEN) for name in changed - rounded)


def test_what_cannot_be_calibrated(source: Path, examples: Path, calibrated: Path, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="has no int4 matrices"):
        calibrate(source, examples, "int8", tmp_path / "a", silent)
    with pytest.raises(CheckpointError, match="already calibrated"):
        calibrate(calibrated, examples, "int4", tmp_path / "b", silent)
    (tmp_path / "mine").mkdir()
    with pytest.raises(DiskError, match="is not g3n's"):
        calibrate(source, examples, "int4", tmp_path / "mine", silent)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_more_examples_than_fit(source: Path, examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrating, "ACTIVATION_BYTES", 100_000)
    with pytest.raises(ExampleError, match="fit into memory together: leave some out"):
        calibrate(source, examples, "int4", tmp_path / "out", silent)
    assert not list(tmp_path.iterdir())


def test_a_nan_is_an_error(source: Path, examples: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(n for n in weights if n.endswith("layers.4.mlp.up_proj.weight"))
    weights[name][3, 3] = torch.nan
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(NotFinite, match=r"layers\.4\.mlp\.up_proj"):
        calibrate(folder, examples, "int4", tmp_path / "out", silent)


def test_what_would_undo_it_is_refused(calibrated: Path, examples: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(TargetError, match="holds no finer weights: compile it with --quant int4"):
        compiled(calibrated, out, recipe="int8")
    with pytest.raises(TargetError, match=r"only known on the texts .* leave --eval out"):
        compiled(calibrated, out, max_loss=0.5, held_texts=examples)
    with pytest.raises(TargetError, match="a slice would undo that"):
        compiled(calibrated, out, slicing=SliceOptions(skip_layers=(6,)))
    with pytest.raises(TargetError, match="was calibrated without --elastic: compile it without"):
        compiled(calibrated, out, elastic=("full", "half"))
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}')
    (tmp_path / "adapter_model.safetensors").write_text("{}")
    with pytest.raises(TargetError, match="--lora would undo that"):
        compiled(calibrated, out, lora=tmp_path)


def test_adapters_at_run_time_would_miss_its_rotations(calibrated: Path, tmp_path: Path) -> None:
    given = CompileOptions(checkpoint=calibrated, runtime="litert", context=128, out=tmp_path / "out", lora_rank=16)
    with pytest.raises(TargetError, match="its values of attention were rotated"):
        compile_bundle(given, silent)


def test_what_it_cost_is_known_when_it_is_compiled(source: Path, calibrated: Path, tmp_path: Path) -> None:
    """The loss is against the checkpoint that it was made from: both references side by side say the same."""
    made, first, recipe = Source.open(calibrated), Source.open(source), get_recipe("int4")
    held = own_held_texts(first, load_tokenizer(source, first.text))
    nats = dict.fromkeys(("exact", "rounded", "divergence"), 0.0)
    for ids in held.ids:
        exact, rounded = (Reference(*given).logits(ids[:-1]).log_softmax(-1) for given in ((first,), (made, recipe)))
        at = torch.arange(len(ids) - 1), torch.tensor(ids[1:])
        nats["exact"] -= float(exact[at].sum()) / held.predicted
        nats["rounded"] -= float(rounded[at].sum()) / held.predicted
        nats["divergence"] += float((exact.exp() * (exact - rounded)).sum()) / held.predicted
    loss = compiled(calibrated, tmp_path / "bundle")["loss"]
    assert loss["exact_perplexity"] == pytest.approx(math.exp(nats["exact"]), rel=1e-3)
    assert loss["perplexity"] == pytest.approx(math.exp(nats["rounded"]), rel=1e-3)
    assert loss["kl_divergence"] == pytest.approx(nats["divergence"], rel=1e-2)
    with pytest.raises(LossError, match=r"loses \d\d\.\d% of the perplexity"):
        compiled(calibrated, tmp_path / "refused", max_loss=0.5)


def test_a_loss_that_is_another_checkpoints(calibrated: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(calibrated, tmp_path / "changed"))
    edit(folder / RECORD, lambda record: cast("dict[str, float]", record["loss"]).update(perplexity=2e4))
    with pytest.raises(CheckpointError, match=r"perplexity is .* and was 20000.0000 when it was made"):
        compiled(folder, tmp_path / "bundle")


def test_a_record_that_is_none(calibrated: Path, tmp_path: Path) -> None:
    record = json.loads((calibrated / RECORD).read_text(encoding="utf-8"))
    for broken in (record | {"error": "small"}, {"recipe": "int4"}, record | {"more": 1}):
        (tmp_path / RECORD).write_text(json.dumps(broken), encoding="utf-8")
        with pytest.raises(CheckpointError, match="is not a record of g3n-calibrate"):
            check_calibration(tmp_path, "int4", None)


def test_the_verb(source: Path, examples: Path, tmp_path: Path) -> None:
    words = [str(examples), "--checkpoint", str(source), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "60 matrices rounded by 3 examples" in result.output
    result = CliRunner().invoke(main, [str(tmp_path / "none.jsonl"), *words[1:]])
    assert result.exit_code == ExampleError.exit_code and "none.jsonl is missing" in result.output


def test_only_a_folder_that_it_made_is_replaced(source: Path, examples: Path, calibrated: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for change in (
        lambda: (out / "notes.md").write_text("mine", encoding="utf-8"),
        lambda: (out / "model.safetensors").write_bytes(b"mine"),
        lambda: (out / RECORD).write_text(json.dumps({"camera": "calibrated"}), encoding="utf-8"),
        lambda: [shutil.rmtree(out), out.mkdir(), (out / RECORD).write_text("{}", encoding="utf-8")],
        lambda: edit(out / RECORD, lambda record: record.update(error=0.5)),
        lambda: edit(out / RECORD, lambda record: record.pop("files")),
    ):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(calibrated, out)
        change()
        before, said = content(out), list[str]()
        with pytest.raises(NotOurs, match="choose another --out"):
            calibrate(source, examples, "int4", out, said.append)
        assert content(out) == before and "hashing the checkpoint" not in said
    shutil.rmtree(out)
    shutil.copytree(calibrated, out)
    calibrate(source, examples, "int4", out, silent)
    assert content(out) == content(calibrated) and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_it_reads_is_not_written_over(source: Path, examples: Path) -> None:
    for out in (source, source / "out", source.parent, examples.parent):
        with pytest.raises(DiskError, match=r"in or around|is not g3n's"):
            calibrate(source, examples, "int4", out, silent)


@pytest.mark.parametrize("which", ["examples", "checkpoint"])
def test_what_changes_while_it_is_read(which: str, source: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(source, tmp_path / "source"))
    path = tmp_path / "examples.jsonl"
    path.write_text("\n".join(map(json.dumps, EXAMPLES)), encoding="utf-8")

    def change(line: str) -> None:
        if line == "layer 3 of 10":
            with (path if which == "examples" else folder / "model.safetensors").open("r+b") as file:
                file.write(file.read(8))

    with pytest.raises(SourceChanged, match="while it was being read"):
        calibrate(folder, path, "int4", tmp_path / "out", change)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a file system of its own")
@pytest.mark.parametrize("room", ["size=2m", "size=1g,nr_inodes=30"])
def test_no_room_on_the_disk(room: str, source: Path, examples: Path, tmp_path: Path) -> None:
    """A file system that is full, or has room for bytes but not for files."""
    (tmp_path / "disk").mkdir()
    run = (
        f"mount -t tmpfs -o {room} none {tmp_path}/disk && {sys.executable} -m g3n_compiler.cli.calibrate {examples} "
        f"--checkpoint {source} --out {tmp_path}/disk/out; echo $?; ls -A {tmp_path}/disk"
    )
    words = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "sh", "-c", run]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip("a file system of one's own is not allowed here")
    assert done.stdout.split() == [str(DiskError.exit_code)], done.stderr
    assert "no space left, or no room for more files" in done.stderr and "Traceback" not in done.stderr
