"""What the small files of a checkpoint tell only together: nano with one thing of it changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from g3n_compiler.checkpoint.token_texts import token_texts
from g3n_compiler.errors import CheckpointError, TokenizerError, WrongModel
from g3n_compiler.models.gemma3n.folder_check import check_folder
from g3n_compiler.models.gemma3n.image_processor import load_resample, load_side
from g3n_compiler.models.gemma3n.media_tokens import NAMES
from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.request.open import open_request
from g3n_compiler.request.options import CompileOptions
from g3n_compiler.source import MODALITIES, Source
from g3n_compiler.tensor_account import account
from tests.fakes import FakeBackend

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def nano(tmp_path: Path) -> Path:
    """A private copy, of which only the weights' file is shared."""
    for path in checkpoint_dir().iterdir():
        if path.name == "model.safetensors":
            (tmp_path / path.name).symlink_to(path)
        else:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def edit(folder: Path, name: str, change: Change) -> None:
    value = json.loads((folder / name).read_text(encoding="utf-8"))
    change(value)
    (folder / name).write_text(json.dumps(value), encoding="utf-8")


def without(folder: Path, part: str) -> None:
    """Leave out the tensors whose name has ``part``."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(checkpoint_dir() / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file({n: t for n, t in tensors.items() if part not in n}, folder / "model.safetensors", {"format": "pt"})


def remarks_on(folder: Path, modalities: tuple[str, ...] = MODALITIES) -> list[str]:
    remarks: list[str] = []
    source = Source.open(folder, modalities=modalities)
    try:
        check_folder(source, remarks.append)
        account(source)
    finally:
        source.close()
    return remarks


def test_nano_is_fine(nano: Path) -> None:
    assert remarks_on(nano) == []


def put(*path: str, value: Any) -> Change:
    def change(fields: dict[str, Any]) -> None:
        for name in path[:-1]:
            fields = fields[name]
        fields[path[-1]] = value

    return change


def drop_token(id: int) -> Change:
    def change(spec: dict[str, Any]) -> None:
        spec["added_tokens"] = [token for token in spec["added_tokens"] if token["id"] != id]
        spec["model"]["vocab"] = {text: i for text, i in spec["model"]["vocab"].items() if i != id}

    return change


CONFIG, TOKENS, TOKENIZER = "config.json", "tokenizer_config.json", "tokenizer.json"
PROCESSOR, GENERATION = "processor_config.json", "generation_config.json"
REFUSED: list[tuple[str, Change, str]] = [
    (CONFIG, put("text_config", "bos_token_id", value=4352), "text_config has bos_token_id 4352"),
    (CONFIG, put("text_config", "pad_token_id", value=4352), "text_config has pad_token_id 4352"),
    (GENERATION, put("eos_token_id", value=[1, 4352]), "generation_config.json has eos_token_id 4352.*vocab_size"),
    (CONFIG, put("boi_token_id", value=4352), "vision_config has the id 4352"),
    (CONFIG, put("boa_token_id", value=4352), "audio_config has the id 4352"),
    (CONFIG, put("image_token_id", value=5), "id 5 belongs to images"),
    (CONFIG, put("audio_token_id", value=9999), "audio_token_id 9999.*vocab_size of 4352"),
    (CONFIG, put("audio_token_id", value=4226), "audio_token_id 4226, expected 4225.*audio_token"),
    (CONFIG, put("boi_token_id", value=4093), "boi_token_id 4093, expected 4094.*boi_token"),
    (CONFIG, put("vision_config", "vocab_offset", value=4300), "belongs to images"),
    (CONFIG, put("vision_config", "vocab_size", value=129), "ids 4096 to 4224.*begin at 4224"),
    (CONFIG, put("tie_word_embeddings", value=False), "tie_word_embeddings false.*no lm_head"),
    (CONFIG, put("tie_word_embeddings", value=None), "tie_word_embeddings null"),
    (CONFIG, put("vision_soft_tokens_per_image", value=255), "has image_seq_length 256, expected 255"),
    (CONFIG, put("audio_soft_tokens_per_image", value=100), "has audio_seq_length 188, expected 100"),
    (CONFIG, put("audio_config", "input_feat_size", value=80), "feature_size 128, expected 80"),
    (PROCESSOR, put("image_processor", "do_rescale", value=False), "image_processor has do_rescale false"),
    (PROCESSOR, put("feature_extractor", "dither", value=0.1), "feature_extractor has dither 0.1"),
    (TOKENIZER, drop_token(2), "no token 2, which config.json names as bos_token_id"),
    (TOKENIZER, drop_token(4097), "no token 4097, which config.json names as image_token_id"),
    (TOKENIZER, drop_token(4224), "no token 4224, which config.json names as eoa_token_id"),
    (TOKENIZER, drop_token(1), "no token 1, which config.json or generation_config.json names as eos_token_id"),
]


@pytest.mark.parametrize(("file", "change", "match"), REFUSED, ids=[match for _, _, match in REFUSED])
def test_what_does_not_fit_is_found_at_once(file: str, change: Change, match: str, nano: Path) -> None:
    edit(nano, file, change)
    with pytest.raises(TokenizerError if file == TOKENIZER else WrongModel, match=match):
        remarks_on(nano)


@pytest.mark.parametrize("value", [None, ...])
@pytest.mark.parametrize("field", ["boi_token_id", "eoi_token_id", "boa_token_id", "eoa_token_id"])
def test_marks_that_the_config_leaves_open_are_the_tokenizers(field: str, value: Any, nano: Path) -> None:
    expected = Source.open(nano)
    edit(nano, CONFIG, lambda c: c.pop(field) if value is ... else c.update({field: value}))
    source = Source.open(nano)
    assert remarks_on(nano) == [] and (source.vision, source.audio) == (expected.vision, expected.audio)


@pytest.mark.parametrize("tower", ["vision", "audio"])
def test_a_tower_that_is_not_asked_for_is_not_looked_at(tower: str, nano: Path) -> None:
    edit(nano, CONFIG, lambda c: c.update({f"{tower}_config": []}))
    with pytest.raises(WrongModel, match=f"{tower}_config is a list"):
        remarks_on(nano)
    others = tuple(m for m in MODALITIES if m != tower)
    assert remarks_on(nano, others) == []
    rows = Source.open(nano, modalities=others).hard_token_rows
    assert rows is not None and {*rows.embedders} == {*others} - {"text"}


@pytest.mark.parametrize(
    ("part", "config", "remark"),
    [
        (".audio_tower.", ..., "has embed_audio, but no audio_tower: it is compiled without audio"),
        ("audio", ..., "has no tensor of the audio tower: it is compiled without audio"),
        ("audio", None, None),
        ("vision", None, None),
    ],
)
def test_what_is_missing_of_a_tower(part: str, config: Any, remark: str | None, nano: Path) -> None:
    tower = "vision" if "vision" in part else "audio"
    without(nano, part)
    if config is None:
        edit(nano, CONFIG, put(f"{tower}_config", value=None))
    found = remarks_on(nano)
    assert Source.open(nano).modalities == tuple(m for m in MODALITIES if m != tower)
    assert found == [] if remark is None else remark in found[0] and len(found) == 1


@pytest.mark.parametrize(
    ("file", "change", "remark"),
    [
        (CONFIG, put("text_config", "rope_parameters", value={"rope_theta": 5e5}), "has a rope_theta beside"),
        (
            CONFIG,
            put("text_config", "attn_logit_softcapping", value=50.0),
            "attn_logit_softcapping 50.0, which Gemma 3n's code",
        ),
        (PROCESSOR, put("image_processor", "do_pan_and_scan", value=True), "has do_pan_and_scan"),
        (PROCESSOR, put("feature_extractor", "frame_length", value=400), "has frame_length 400"),
        (PROCESSOR, lambda p: p.pop("image_processor"), "says how pictures are prepared"),
        (PROCESSOR, lambda p: p.pop("feature_extractor"), "says how sound is prepared"),
    ],
)
def test_what_is_left_aside_is_said(file: str, change: Change, remark: str, nano: Path) -> None:
    edit(nano, file, change)
    found = remarks_on(nano)
    assert len(found) == 1 and remark in found[0]


def test_the_config_of_the_hubs_release(nano: Path) -> None:
    """Flat RoPE names, ``torch_dtype``, and all processor settings in the old file, with its nulls."""
    expected, processors = Source.open(nano), json.loads((nano / PROCESSOR).read_text(encoding="utf-8"))

    def older(config: dict[str, Any]) -> None:
        text = config["text_config"]
        for name in ("rope_parameters", "tie_word_embeddings", "architectures", "use_cache"):
            text.pop(name)
        text |= {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": None, "torch_dtype": "bfloat16",
                 "query_pre_attn_scalar": 256, "altup_lr_multiplier": 1.0}  # fmt: skip
        config.pop("tie_word_embeddings")
        config |= {"torch_dtype": "bfloat16", "image_soft_token_id": 4097}
        config["audio_config"] |= {"conf_attention_invalid_logits_value": -1e9, "sscp_conv_eps": 0.001}

    edit(nano, CONFIG, older)
    old = processors["feature_extractor"] | processors["image_processor"] | {"do_normalize": None}
    (nano / "preprocessor_config.json").write_text(json.dumps(old), encoding="utf-8")
    (nano / PROCESSOR).write_text('{"audio_seq_length": 188, "image_seq_length": 256}', encoding="utf-8")
    source = Source.open(nano)
    assert remarks_on(nano) == [] and source.text == expected.text
    assert (source.vision, source.audio) == (expected.vision, expected.audio)
    assert (load_resample(nano), load_side(nano)) == ("bicubic", 256)


def test_tokens_are_found_in_every_place() -> None:
    content = {"content": "<b>", "special": True}
    assert token_texts({"boi_token": "<a>"}, NAMES) == {"boi_token": "<a>"}
    both = {"boi_token": "<a>", "extra_special_tokens": {"boi_token": content}}
    assert token_texts(both, NAMES) == {"boi_token": "<b>"}
    assert token_texts({"model_specific_special_tokens": {"eoi_token": "<c>"}}, NAMES) == {"eoi_token": "<c>"}
    assert token_texts({"extra_special_tokens": ["<b>"], "image_token": None}, NAMES) == {}


def test_a_request_is_refused_before_anything_is_done(nano: Path) -> None:
    edit(nano, CONFIG, put("boi_token_id", value=4093))
    edit(nano, CONFIG, put("text_config", "attn_logit_softcapping", value=50.0))
    options, lines = (
        CompileOptions(checkpoint=nano, context=64, out=nano.with_name("out"), modalities=("text", "vision")),
        list[str](),
    )
    with pytest.raises(WrongModel, match=r"boi_token_id 4093"):
        open_request(options, FakeBackend, lines.append)
    edit(nano, CONFIG, put("boi_token_id", value=4094))
    open_request(options, FakeBackend, lines.append).source.close()
    assert any("attn_logit_softcapping 50.0, which Gemma 3n's code does not read" in line for line in lines)


def test_files_that_are_damaged_are_named(nano: Path) -> None:
    for name in (TOKENS, PROCESSOR, TOKENIZER):
        whole = (nano / name).read_bytes()
        (nano / name).write_text("{", encoding="utf-8")
        with pytest.raises(CheckpointError, match=name):
            remarks_on(nano)
        (nano / name).write_bytes(whole)


@pytest.mark.parametrize("name", ["processor_config.json", "tokenizer_config.json"])
def test_a_processor_of_another_model_is_named(name: str, nano: Path) -> None:
    """``AutoProcessor`` would load it, and it knows no sounds; a file after one that names a class is not read."""
    edit(nano, name, lambda c: c.update(processor_class="Gemma3Processor"))
    if name == "tokenizer_config.json":
        remarks_on(nano)
        edit(nano, "processor_config.json", lambda c: c.pop("processor_class"))
    with pytest.raises(WrongModel, match=f"{name} has processor_class 'Gemma3Processor', expected Gemma3nProcessor"):
        remarks_on(nano)
    remarks_on(nano, ("text",))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_link_to_nothing_is_no_missing_file(name: str, nano: Path) -> None:
    """A cache whose blobs were removed, or a copy of its links alone."""
    (nano / name).unlink()
    (nano / name).symlink_to("../../blobs/0123")
    with pytest.raises(CheckpointError, match=f"{name} is a link to a file that is not there"):
        remarks_on(nano)


def test_tower_tensors_beside_a_text_config_are_told(nano: Path) -> None:
    edit(nano, "config.json", lambda c: (text := c["text_config"]) and (c.clear(), c.update(text)))
    told = " ".join(remarks_on(nano))
    assert "config.json is of a text model alone" in told and "174 tensors of towers" in told
    source = Source.open(nano)
    assert source.modalities == ("text",) and source.vision is None
    assert set(account(source).left_out.values()) == {"config.json is of a text model alone"}
    source.close()
