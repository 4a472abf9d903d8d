"""What a recipe costs: the figures against whole runs of the references, what is lost where, and what is refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from g3n_compiler.checkpoint.tokenizer import TextTokenizer, load_tokenizer
from g3n_compiler.cli.compile import main
from g3n_compiler.compile import CompileOptions, compile_bundle
from g3n_compiler.errors import ExampleError, LossError, TargetError
from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.quantize.recipe import get_recipe
from g3n_compiler.report.loss import loss_sentence, loss_warning
from g3n_compiler.source import Source
from g3n_compiler.verify import run as verify_run
from g3n_compiler.verify.checks import Check
from g3n_compiler.verify.held import MAX_LINE_CHARACTERS, HeldTexts, own_held_texts, read_held_texts
from g3n_compiler.verify.loss import Loss, SizeLoss
from g3n_compiler.verify.measure_loss import measure_loss
from g3n_compiler.verify.reference import Reference
from g3n_runtime.bundle import open_bundle
from tests.conftest import TinyModel
from tests.fakes import FakeBackend
from tests.rewrite.planted import hidden, norm, plant, small

TEXTS = (
    {"text": "What is a river? A large natural stream of water."},
    {"prompt": "What is a dog?", "answer": "An animal."},
)


@pytest.fixture(scope="module")
def nano() -> Source:
    return Source.open(checkpoint_dir(), modalities=("text",))


@pytest.fixture(scope="module")
def tokenizer(nano: Source) -> TextTokenizer:
    return load_tokenizer(nano.directory, nano.text)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, TEXTS)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def held(nano: Source, tokenizer: TextTokenizer) -> HeldTexts:
    found = own_held_texts(nano, tokenizer)
    return replace(found, ids=found.ids[:6])  # as many as tell it in a second


@pytest.fixture(scope="module")
def loss(nano: Source, held: HeldTexts) -> Loss:
    return measure_loss(nano.rewritten(), get_recipe("int4"), held)


def test_the_figures_are_those_of_whole_runs(nano: Source, held: HeldTexts, loss: Loss) -> None:
    recipe = get_recipe("int4")
    exact, rounded = Reference(nano), Reference(nano.rewritten(), recipe)
    nats, divergence, same = torch.zeros(2), 0.0, 0
    for ids in held.ids:
        p, q = (torch.log_softmax(r.logits(ids[:-1]), -1) for r in (exact, rounded))
        at = torch.arange(len(ids) - 1)
        nats -= torch.stack([x[at, torch.tensor(ids[1:])].sum() for x in (p, q)])
        divergence += float((p.exp() * (p - q)).sum())
        same += int((p.argmax(-1) == q.argmax(-1)).sum())
    want = [math.exp(float(n) / held.predicted) for n in nats]
    assert held.predicted == loss.tokens > 200
    # a packed chunk sums in another order, which can turn a rounding to eight bits
    assert [loss.exact_perplexity, loss.perplexity] == pytest.approx(want, rel=2e-3)
    assert loss.exact_perplexity == pytest.approx(want[0], rel=1e-5)
    assert loss.kl_divergence == pytest.approx(divergence / held.predicted, rel=0.1)
    assert abs(loss.same_top - same / held.predicted) < 0.02
    assert loss.rewritten is not None and loss.check()[0].passed


def test_what_is_lost_is_told_of_each_layer_and_matrix(nano: Source, loss: Loss) -> None:
    assert list(loss.layers) == [*(f"layer {i}" for i in range(10)), "head"]
    assert {"layers.4.self_attn.v_proj", "layers.9.per_layer_projection", "altup_projections.2"} <= loss.matrices.keys()
    assert 0.05 < loss.matrices["layers.3.mlp.down_proj"] < 0.2, "int4"
    assert 0.001 < loss.matrices["layers.3.per_layer_input_gate"] < 0.02, "int8"


def test_outliers_cost_no_more_than_without(nano: Source, held: HeldTexts, loss: Loss, tmp_path: Path) -> None:
    """The goal of the rewrites; without them the same checkpoint loses a multiple."""
    planted = Source.open(plant(checkpoint_dir(), tmp_path / "planted", hidden(32), norm(16), small(16)))
    plain = measure_loss(planted, get_recipe("int4"), held)
    assert plain.lost > 0.1 and plain.kl_divergence > 10 * loss.kl_divergence and plain.rewritten is None
    better = measure_loss(planted.rewritten(), get_recipe("int4"), held)
    assert better.lost < 0.03 and better.kl_divergence < 1.3 * loss.kl_divergence


def test_a_rewrite_that_is_not_exact_is_found(nano: Source, held: HeldTexts) -> None:
    source = nano.rewritten()
    assert source.rewrites is not None
    rows = source.rewrites.tensors["layers.3.mlp.up_proj.weight"].rows
    assert rows is not None
    rows[5] *= 2
    (check,) = measure_loss(source, get_recipe("int8"), held).check()
    assert not check.passed


def test_the_users_texts(file: Path, tokenizer: TextTokenizer) -> None:
    found = read_held_texts(file, tokenizer, 4096)
    assert tokenizer.decode(list(found.ids[0][1:])) == TEXTS[0]["text"]
    assert tokenizer.decode(list(found.ids[1])).endswith("An animal.<end_of_turn>") and found.origin == "mine.jsonl"
    assert [len(ids) for ids in read_held_texts(file, tokenizer, 9).ids] == [9, 9]
    wrong = {"{": "line 1", '{"text": 3}': "of strings", '{"title": "x"}': "expected a text", "": "holds no texts"}
    wrong[json.dumps({"text": "a" * MAX_LINE_CHARACTERS})] = "line 1 has 1,048,588 characters"
    for line, why in wrong.items():
        file.write_text(line, encoding="utf-8")
        with pytest.raises(ExampleError, match=why):
            read_held_texts(file, tokenizer, 4096)


Compile = Callable[..., Path]


@pytest.fixture
def compile_tiny(tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compile:
    held = Check("held", "core", "onnxruntime", "eager fp32", "relative error", 0.0, 1.0)
    monkeypatch.setattr(verify_run, "onnx_checks", lambda *_: [held])  # slow, and has its own test

    def compile_with(**options: object) -> Path:
        given = CompileOptions(checkpoint=tiny.directory, runtime="litert", context=64, out=tmp_path / "out", **options)  # type: ignore[arg-type]
        return compile_bundle(given, lambda line: None, lambda runtime: FakeBackend(runtime))

    return compile_with


def test_too_much_is_refused_with_the_layers_named(compile_tiny: Compile, file: Path, tmp_path: Path) -> None:
    with pytest.raises(LossError, match=r"loses .*% of the perplexity .* of mine.jsonl.* most is lost in layer \d+ \("):
        compile_tiny(held_texts=file, max_loss=-1.0)
    assert not (tmp_path / "out").exists()
    with pytest.raises(TargetError, match="leave --eval and --max-loss out"):
        compile_tiny(recipe="fp32", max_loss=0.5)
    with pytest.raises(ExampleError, match=r"none\.jsonl is missing"):
        compile_tiny(held_texts=tmp_path / "none.jsonl")


def test_a_compile_that_loses_more_than_it_may_ends(tmp_path: Path) -> None:
    """With nano and its own texts, before anything is lowered; the head in int4 costs it 4%."""
    words = ["--size", "nano", "--modalities", "text", "--quant", "int4-lean", "--max-loss", "1%"]
    result = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "out")])
    said = " ".join(result.output.split())
    assert result.exit_code == LossError.exit_code == 41
    assert re.search(r"loses [345]\.\d% of the perplexity .* over --max-loss 1%", said)
    assert re.search(r"most is lost in ((layer \d|head) \(\d+\.\d%\)(, |;)){3}", said)
    assert re.search(r"of the matrices in (layers\.\d\.[a-z_.]+ \(\d+\.\d%\)(, |\.)){3}", said)
    assert "tracing" not in said and not (tmp_path / "out").exists()


def test_a_size_that_loses_too_much_is_refused(loss: Loss) -> None:
    both = replace(loss, sizes={"half": SizeLoss(10.0, 10.2, 0.01, 0.9)})
    both.require(0.021)
    with pytest.raises(LossError, match=r"loses 2.0% of the perplexity of the size half \(10\.00 in float32"):
        both.require(0.019)
    assert Loss.of_json(both.as_json()).sizes == both.sizes


def test_manifest_and_page_tell_it(compile_tiny: Compile, file: Path) -> None:
    out = compile_tiny(held_texts=file, max_loss=9.0)
    manifest = open_bundle(out).manifest
    sentence, warning = loss_sentence(manifest), loss_warning(manifest)
    assert manifest["recipe"]["rewritten"] and manifest["loss"]["texts"] == "mine.jsonl"
    assert sentence is not None and warning is not None and "--eval" in warning, "random weights find any text hard"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert (
        "What rounding costs" in page
        and f"on {manifest['loss']['tokens']} tokens of mine.jsonl" in page
        and "layers.4.mlp.down_proj" in page
    )
    manifest["loss"]["lost"] = 0.031
    assert (said := loss_warning(manifest)) is not None and "3.1% of the perplexity is lost, most in layer" in said
    manifest["loss"] |= {"lost": 0.029, "exact_perplexity": 20.0}
    assert loss_warning(manifest) is None
    del manifest["loss"]
    assert loss_sentence(manifest) is None and loss_warning(manifest) is None


@pytest.mark.parametrize("typed", ["3", "-1%", "nan%", "3 percent"])
def test_a_loss_that_is_no_percentage(typed: str) -> None:
    result = CliRunner().invoke(main, ["--max-loss", typed])
    assert result.exit_code == 2 and "is not a percentage such as 3%" in result.output
