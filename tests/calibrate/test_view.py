"""Calibrating a slice, several sizes, or a checkpoint with an adapter: the result is what g3n-compile makes of it."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from g3n_compiler.calibrate.run import View, calibrate
from g3n_compiler.checkpoint.calibrated import read_calibration
from g3n_compiler.checkpoint.lora import LoraAdapter
from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.cli.calibrate import main
from g3n_compiler.errors import LossError, SliceError, TargetError
from g3n_compiler.models.gemma3n.transformers_model import load_hf
from g3n_compiler.models.registry import text_weights
from g3n_compiler.quantize.recipe import get_recipe
from g3n_compiler.quantize.rows import fake_quantize
from g3n_compiler.slice.choose import SliceOptions
from g3n_compiler.slice.elastic import choose_sizes
from g3n_compiler.slice.plan import plan_slice
from g3n_compiler.source import Source
from g3n_compiler.verify.checks import EXACT, relative_error
from g3n_compiler.verify.held import own_held_texts
from g3n_compiler.verify.reference import Reference, hf_logits
from tests.calibrate.conftest import bfloat16_shards, compiled, silent, tensors
from tests.checkpoint.adapters import ATTENTION, merged, write_adapter
from tests.conftest import TinyModel, ids_of

SKIP, FFN = (1, 6, 8), (64, 128, 96, 128, 64, 32, 128)
SLICE = SliceOptions(skip_layers=SKIP, ffn_dims=FFN)
SIZES = ("full", "half-5-6")


def on_the_grid(source: Source) -> int:
    """How many int4 matrices of ``source`` its recipe leaves as they are, which are all of them."""
    recipe = get_recipe("int4")
    specs = [spec for spec in text_weights(source.text).values() if spec.role in ("attention", "ffn")]
    for spec in specs:
        value = source.read(spec)
        assert torch.equal(fake_quantize(value, recipe.scheme(spec)), value), spec.name
    return len(specs)


@pytest.fixture(scope="module")
def sliced(source: Path, examples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sliced") / "out"
    calibrate(source, examples, "int4", out, silent, View(slicing=SLICE))
    return out


def test_a_slice_is_a_checkpoint_of_its_own(source: Path, sliced: Path, tmp_path: Path) -> None:
    """Its shape, the tensors that are not rounded, and what ``transformers`` computes with it."""
    made, first = Source.open(sliced), Source.open(source)
    view = first.sliced(plan_slice(first.whole, SKIP, FFN))
    assert made.text == view.text and on_the_grid(made) == 7 * 5 + 4 * 2
    for name in ("layers.3.altup.prediction_coefs.weight", "layers.6.post_feedforward_layernorm.weight", "norm.weight"):
        assert torch.equal(made.read_relative(name), view.read_relative(name))
    ids = ids_of(40, 4352)
    assert relative_error(Reference(made).logits(ids).numpy(), hf_logits(load_hf(made), ids).numpy()) < EXACT
    record = read_calibration(sliced)
    assert record is not None and record.slice == {"kept": [0, 2, 3, 4, 5, 7, 9], "ffn_dims": list(FFN)}
    manifest = compiled(sliced, tmp_path / "bundle")
    assert manifest["loss"]["exact_perplexity"] == pytest.approx(perplexity(view, sliced), rel=1e-3)


def perplexity(view: Source, texts_of: Path) -> float:
    """Of ``view`` in float32, on the texts that a compile of ``texts_of`` measures on."""
    held = own_held_texts(Source.open(texts_of), load_tokenizer(texts_of, view.text))
    reference, nats = Reference(view), 0.0
    for ids in held.ids:
        logits = reference.logits(ids[:-1])
        nats += float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum"))
    return math.exp(nats / held.predicted)


def test_a_slice_of_bfloat16_shards(source: Path, sliced: Path, examples: Path, tmp_path: Path) -> None:
    folder = bfloat16_shards(source, tmp_path / "shards")
    calibrate(folder, examples, "int4", tmp_path / "out", silent, View(slicing=SLICE))
    made = tensors(tmp_path / "out")
    assert {name: value.shape for name, value in made.items()} == {n: v.shape for n, v in tensors(sliced).items()}
    assert all(value.dtype == torch.bfloat16 for value in made.values())
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["weight_map"].keys() == made.keys()
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in made.values())


def test_several_sizes_share_the_rounding(source: Path, examples: Path, tmp_path: Path) -> None:
    """Each block of a down projection has scales of its own, and the bundle takes all as they are."""
    out = tmp_path / "out"
    calibrate(source, examples, "int4", out, silent, View(elastic=SIZES))
    made = Source.open(out)
    sizes = choose_sizes(SIZES, made.whole)
    assert on_the_grid(made.divided(sizes[0].config)) == 10 * 5 + 5 * 2 + 8 * 3
    down = next(s for s in text_weights(made.text).values() if s.name.endswith("down_proj"))
    assert not torch.equal(fake_quantize(made.read(down), get_recipe("int4").scheme(down)), made.read(down))
    first, record = Source.open(source), read_calibration(out)
    assert record is not None and record.loss is not None
    small = record.loss["sizes"]["half-5-6"]  # against the size of the first checkpoint, not of the rounded one
    assert small["exact_perplexity"] == pytest.approx(perplexity(first.sliced(sizes[1].plan), out), rel=1e-3)
    exact = f"{float(f'{perplexity(first, out):.5g}'):.2f}"
    with pytest.raises(LossError, match=rf"of the perplexity \({re.escape(exact)} in float32"):
        compiled(out, tmp_path / "bundle", elastic=tuple(reversed(SIZES)), max_loss=1e-6)
    with pytest.raises(TargetError, match="was calibrated with --elastic full,half-5-6: compile it with"):
        compiled(out, tmp_path / "other")
    with pytest.raises(TargetError, match="was calibrated with --elastic full,half-5-6"):
        compiled(out, tmp_path / "other", elastic=("full", "half"))


def test_sizes_without_the_whole_model(source: Path, examples: Path, tmp_path: Path) -> None:
    with pytest.raises(SliceError, match="one must be the whole model"):
        calibrate(source, examples, "int4", tmp_path / "out", silent, View(elastic=("half", "half-5-6")))
    assert not list(tmp_path.iterdir())


def test_with_an_adapter_it_is_the_merged_checkpoint(
    tiny: TinyModel, source: Path, examples: Path, tmp_path: Path
) -> None:
    """Of attention, which is rounded, and of LAUREL, which is not."""
    write_adapter(tiny.hf, tmp_path / "adapter", target_modules=[*ATTENTION, "linear_left"])
    calibrate(source, examples, "int4", tmp_path / "out", silent, View(lora=tmp_path / "adapter"))
    whole = shutil.copytree(source, tmp_path / "whole")
    stored, expected = tensors(source), merged(tiny.hf, tmp_path / "adapter")
    save_file({n: expected.get(n, v).contiguous() for n, v in stored.items()}, whole / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    calibrate(whole, examples, "int4", tmp_path / "expected", silent)
    made, again = tensors(tmp_path / "out"), tensors(tmp_path / "expected")
    assert made.keys() == again.keys()
    for name, value in made.items():
        torch.testing.assert_close(value, again[name], rtol=1e-5, atol=1e-6)
        assert not torch.equal(value, stored[name]) or "q_proj" not in name
    record = read_calibration(tmp_path / "out")
    assert record is not None and record.adapter == LoraAdapter(tmp_path / "adapter", tiny.open().checkpoint,
                                                                ["model."]).sha256  # fmt: skip


def test_what_bfloat16_cannot_hold_is_float32(tiny: TinyModel, source: Path, examples: Path, tmp_path: Path) -> None:
    """What an adapter makes of a matrix that is not rounded."""
    write_adapter(tiny.hf, tmp_path / "adapter", target_modules=["linear_left"])
    folder = bfloat16_shards(source, tmp_path / "shards")
    calibrate(folder, examples, "int4", tmp_path / "out", silent, View(lora=tmp_path / "adapter"))
    for name, value in tensors(tmp_path / "out").items():
        assert value.dtype == (torch.float32 if "linear_left" in name else torch.bfloat16), name


def test_a_template_in_a_subfolder_is_copied(source: Path, examples: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(source, tmp_path / "source"))
    inner = folder / "additional_chat_templates"
    inner.mkdir()
    shutil.move(folder / "chat_template.jinja", inner / "default.jinja")
    for _ in range(2):  # the second replaces the first
        calibrate(folder, examples, "int4", tmp_path / "out", silent)
    assert (tmp_path / "out" / inner.name / "default.jinja").read_bytes() == (inner / "default.jinja").read_bytes()


def test_the_verb_takes_what_g3n_compile_takes(source: Path, examples: Path, sliced: Path, tmp_path: Path) -> None:
    words = [str(examples), "--checkpoint", str(source), "--out", str(tmp_path / "out")]
    chosen = ["--skip-layers", "1,6,8", "--ffn-dims", ",".join(map(str, FFN))]
    result = CliRunner().invoke(main, [*words, *chosen])
    assert result.exit_code == 0, result.output
    assert "of the texts that come with g3n" in result.output and "slicing: 7 of 10 layers" in result.output
    for path in sliced.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name
    refused = CliRunner().invoke(main, [*words, *chosen, "--elastic", "full,half"])
    assert refused.exit_code == SliceError.exit_code and "name all sizes in --elastic" in refused.output
