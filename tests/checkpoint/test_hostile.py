"""What reads a checkpoint's folder, against files that are broken or made to harm: the reader's own error."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2 as pb

from g3n_compiler.checkpoint.reader import INDEX, SINGLE, Checkpoint
from g3n_compiler.checkpoint.safetensors import SafetensorsFile
from g3n_compiler.checkpoint.sentencepiece import pad_to_vocabulary, read_sentencepiece
from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.checkpoint.tokenizer_json import load_fast_tokenizer, read_tokenizer_json
from g3n_compiler.errors import BadHeader, CheckpointError, MissingShard, TokenizerError, WrongModel
from g3n_compiler.models.gemma3n.image_processor import load_resample, load_side
from g3n_compiler.models.gemma3n.text_config import gemma3n_config, load_text_config
from g3n_compiler.models.gemma3n.tower_config import load_audio_config, load_vision_config
from g3n_compiler.models.gemma3n.vision_layout import read_layout
from g3n_compiler.models.registry import family_for
from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.source import Source

CONFIG: dict[str, Any] = json.loads((checkpoint_dir() / "config.json").read_text(encoding="utf-8"))
JSON_FILES = ("generation_config.json", "processor_config.json", "tokenizer_config.json", "calibration.json")
ODD = [
    None,
    True,
    -1,
    0,
    1.5,
    10**9,
    10**400,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "x\x1b",
    [],
    [None],
    {},
    {"a": [1]},
]
SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_config(folder: Path, config: Any, layout: bool = False) -> None:
    """Everything that config.json decides before a tensor is read, with ``layout`` timm's part, which takes longer."""
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    load_text_config(folder)
    family_for(config)
    vision = load_vision_config(config, True)
    if layout:
        read_layout(vision)
    load_audio_config(config)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, child in children for p in paths(child, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


FIELDS = paths(CONFIG)
"""Most of all fields are timm's arguments: the others are struck as often."""
OTHERS = [path for path in FIELDS if "model_args" not in path]


@SETTINGS
@given(st.sampled_from(OTHERS) | st.sampled_from(OTHERS) | st.sampled_from(FIELDS), st.sampled_from(ODD))
def test_any_field_of_the_config_is_read_or_refused(tmp_path: Path, path: tuple[Any, ...], new: Any) -> None:
    try:
        read_config(tmp_path, replaced(CONFIG, path, new), layout="model_args" in path)
    except CheckpointError as error:
        assert "\x1b" not in str(error) and len(str(error)) < 700


@pytest.mark.parametrize("new", [-1, 0, True, 10**9, 1.0, "4", [4], {}, float("inf"), 10**400], ids=str)
@pytest.mark.parametrize(
    "name",
    ["num_hidden_layers", "altup_num_inputs", "vocab_size", "head_dim", "hidden_size", "num_key_value_heads",
     "vocab_size_per_layer_input", "hidden_size_per_layer_input", "laurel_rank", "sliding_window",
     "max_position_embeddings"],
)  # fmt: skip
def test_a_size_that_is_none_is_named(name: str, new: Any, tmp_path: Path) -> None:
    with pytest.raises(WrongModel, match=f"text_config has {name} .*expected an integer"):
        read_config(tmp_path, replaced(CONFIG, ("text_config", name), new))


@pytest.mark.parametrize(
    ("path", "new", "words"),
    [
        (("text_config",), [], "text_config is a list of 0, expected an object"),
        (("vision_config",), None, r"vision_config \(null, so all of it is transformers' default"),
        (("audio_config",), [], "audio_config is a list"),
        (("eos_token_id",), {}, "eos_token_id an object"),
        (("eos_token_id",), [1] * 1000, "at most 256 ids"),
        (("text_config", "layer_types"), ["x"] * 10, "sliding_attention or full_attention"),
        (("text_config", "layer_types"), ["full_attention"] * 9, "a list of 10"),
        (("text_config", "intermediate_size"), [512] * 9, "intermediate_size a list of 9"),
        (("text_config", "rope_parameters"), {"full_attention": {"rope_type": "yarn"}}, "scaled RoPE"),
        (("text_config", "rms_norm_eps"), float("nan"), "rms_norm_eps nan"),
        (("model_type",), ["gemma3n"], "model_type a list of 1"),
        (("audio_config", "conf_attention_chunk_size"), 10**9, "conf_attention_chunk_size"),
        (("audio_config", "conf_reduction_factor"), 64, "longer than"),
        (("image_token_id",), 10**6, "belongs to images"),
    ],
)
def test_a_config_that_makes_no_model(path: tuple[Any, ...], new: Any, words: str, tmp_path: Path) -> None:
    config = replaced({**CONFIG, "audio_soft_tokens_per_image": 1000}, path, new)
    with pytest.raises(WrongModel, match=words):
        read_config(tmp_path, config)


@pytest.mark.parametrize(
    "more",
    [
        {"unknown": float("inf"), "quantisation": {"deep": [None]}},
        {"rope_scaling": {"rope_type": "default"}, "attention_bias": None, "activation_sparsity_pattern": 0.0},
        {"pad_token_id": None, "bos_token_id": None, "layer_types": None, "tie_word_embeddings": None},
    ],
)
def test_harmless_fields_are_taken(more: dict[str, Any], tmp_path: Path) -> None:
    read_config(tmp_path, {**CONFIG, "text_config": {**CONFIG["text_config"], **more}})


def test_absent_sizes_mean_what_they_mean_to_transformers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gemma3n_text"}', encoding="utf-8")
    config = load_text_config(tmp_path)
    assert (config.num_layers, config.hidden_size, config.num_kv_layers, config.vocab_size) == (35, 2048, 20, 262_400)


@pytest.mark.parametrize("text", [b"\xff", b"[", b'{"a": ' + b"1" * 5000 + b"}", b"[" * 10_000, b"[]", b"{"])
@pytest.mark.parametrize("name", ["config.json", INDEX, *JSON_FILES])
def test_files_that_are_no_json_objects(name: str, text: bytes, tiny_copy: Path) -> None:
    (tiny_copy / name).write_bytes(text)
    if name == INDEX:  # transformers looks for it second
        (tiny_copy / SINGLE).unlink()
    if name == "tokenizer_config.json":
        (tiny_copy / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match=name):
        read_folder(tiny_copy)


@pytest.mark.parametrize("kind", ["folder", "pipe"])
@pytest.mark.parametrize(
    "name", ["config.json", SINGLE, INDEX, "tokenizer.json", "tokenizer.model", "chat_template.jinja", *JSON_FILES]
)
def test_what_is_no_file(name: str, kind: str, tiny_copy: Path) -> None:
    if name == "tokenizer_config.json":
        (tiny_copy / "chat_template.jinja").unlink()
    if name == INDEX:
        (tiny_copy / SINGLE).unlink()
    (tiny_copy / name).unlink(missing_ok=True)
    (tiny_copy / name).mkdir() if kind == "folder" else os.mkfifo(tiny_copy / name)
    with pytest.raises(CheckpointError, match=f"{name} is a {kind}"):
        read_folder(tiny_copy)


def read_folder(folder: Path) -> None:
    from g3n_compiler.checkpoint.calibrated import read_calibration

    load_tokenizer(folder, gemma3n_config(Source.open(folder).text))
    load_resample(folder)
    load_side(folder)
    read_calibration(folder)


def test_names_that_are_none(tmp_path: Path) -> None:
    for path in (Path("a\0b"), tmp_path / ("x" * 300)):
        with pytest.raises(CheckpointError):
            Checkpoint(path)
        with pytest.raises(CheckpointError):
            SafetensorsFile(path)


@pytest.mark.parametrize("name", ["..", "", ".", "a/b", "/etc/passwd", "a\0b", "absent.safetensors"])
def test_shards_that_are_no_plain_names(name: str, tiny_copy: Path) -> None:
    (tiny_copy / SINGLE).unlink()
    (tiny_copy / INDEX).write_text(json.dumps({"weight_map": {"a": name}}), encoding="utf-8")
    with pytest.raises((CheckpointError, MissingShard)):
        Source.open(tiny_copy)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header",
    [
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": ' + json.dumps(ENTRY).encode() + b"}",
        json.dumps({"a": {**ENTRY, "dtype": ["F32"]}}).encode(),
        json.dumps({"a": {**ENTRY, "dtype": {}}}).encode(),
        json.dumps({"a": ENTRY, "__metadata__": [1]}).encode(),
        json.dumps({"a": {**ENTRY, "shape": [0, 1 << 70]}}).encode(),
        json.dumps({"a": {**ENTRY, "shape": [1] * 1000 + [2]}}).encode(),
        json.dumps({"a": {**ENTRY, "data_offsets": [0, 8, 8]}}).encode(),
        json.dumps({"a\0b": ENTRY}).encode(),
        json.dumps({"a\x1b[2J": ENTRY}).encode(),
        json.dumps({"x" * 1000: ENTRY}).encode(),
        json.dumps({"": ENTRY}).encode(),
        b'{"a": {"dtype": "F32", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 8]}}',
        b'{"a": NaN}',
    ],
)
def test_headers_that_lie(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(BadHeader):
        SafetensorsFile(path)


def change_model(change: Callable[[Any], None]) -> bytes:
    model = pb.ModelProto.FromString((checkpoint_dir() / "tokenizer.model").read_bytes())
    change(model)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.pieces.add(piece="<pad>"), "duplicate"),
        (lambda m: m.pieces.add(piece=""), "is empty"),
        (lambda m: m.pieces.add(piece="x" * 2000), "longer"),
        (lambda m: m.pieces.add(piece="zzzz", score=float("nan")), "score nan"),
        (lambda m: m.pieces.add(piece="zzzz", type=2), "2 unknown"),
        (lambda m: m.pieces.add(piece="zzzz", type=6), "257 byte pieces"),
        (lambda m: m.ClearField("pieces"), "0 pieces"),
        (lambda m: setattr(m.normalizer_spec, "precompiled_charsmap", b"xxxx"), "rewrites characters"),
        (lambda m: setattr(m.trainer_spec, "model_type", 4), "model_type is 4"),
    ],
)
def test_sentencepiece_models_of_another_kind(change: Callable[[Any], None], words: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(change_model(change))
    with pytest.raises(TokenizerError, match=words):
        read_sentencepiece(path)


def test_a_sentencepiece_model_larger_than_the_vocabulary() -> None:
    with pytest.raises(TokenizerError, match="4352 pieces"):
        pad_to_vocabulary((checkpoint_dir() / "tokenizer.model").read_bytes(), 4000)


@SETTINGS
@given(st.data())
def test_a_damaged_sentencepiece_model_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    raw = bytearray((checkpoint_dir() / "tokenizer.model").read_bytes())
    # most bytes are names of pieces: the end, which holds the settings, is struck as often as all others
    places = st.integers(0, len(raw) - 1) | st.integers(len(raw) - 120, len(raw) - 1)
    for place in data.draw(st.lists(places, min_size=1, max_size=4)):
        raw[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(raw)) | st.just(len(raw)))
    path = tmp_path / "tokenizer.model"
    path.write_bytes(raw[:cut])
    try:
        assert read_sentencepiece(path)
    except TokenizerError as error:
        assert str(path) in str(error)


TOKENS: dict[str, Any] = {
    "added_tokens": [{"id": 3, "content": "<a>", "special": True, "single_word": False, "lstrip": False,
                      "rstrip": False, "normalized": False}],
    "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "_"},
    "pre_tokenizer": None,
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<a>": 3}, "merges": [["a", "b"]], "dropout": None},
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "new", "words"),
    [
        (("model", "vocab", "a"), -1, "not an integer"),
        (("model", "vocab", "a"), 10**9, "not an integer"),
        (("model", "vocab", "a"), True, "not an integer"),
        (("model", "vocab", "a"), 1, "which is 'a'"),
        (("model", "vocab"), [], "no model with a vocab"),
        (("model",), None, "no model with a vocab"),
        (("model", "merges"), [["a"]], "merges"),
        (("model", "merges"), [["a", "zz"]], "cannot be loaded"),
        (("model", "type"), "X", "cannot be loaded"),
        (("model", "dropout"), 0.5, "dropout"),
        (("added_tokens", 0, "id"), 4, "another id"),
        (("added_tokens", 0, "content"), None, "content"),
        (("added_tokens",), {}, "not a list"),
        (("normalizer", "pattern"), {"Regex": "(a" * 5000}, "pattern"),
        (("normalizer", "pattern"), {"Regex": "(a"}, "cannot be loaded"),
    ],
)
def test_tokenizers_that_are_none(path: tuple[Any, ...], new: Any, words: str, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(replaced(TOKENS, path, new)), encoding="utf-8")
    with pytest.raises(TokenizerError, match=words):
        load_fast_tokenizer(file)


def test_texts_are_neither_padded_nor_cut(tmp_path: Path) -> None:
    padding = {"strategy": {"Fixed": 10**7}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    value = {**TOKENS, "padding": {**padding, "pad_type_id": 0, "pad_token": "a"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(value), encoding="utf-8")
    assert load_fast_tokenizer(tmp_path / "tokenizer.json").encode("abb").ids == [2, 1]


@SETTINGS
@given(st.sampled_from(paths(TOKENS)), st.sampled_from(ODD))
def test_any_field_of_a_tokenizer_is_read_or_refused(tmp_path: Path, path: tuple[Any, ...], new: Any) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(replaced(TOKENS, path, new)), encoding="utf-8")
    try:
        load_fast_tokenizer(file).encode("ab <a>")
        read_tokenizer_json(file)
    except TokenizerError as error:
        assert str(file) in str(error)


@pytest.mark.parametrize(
    "change",
    [{"temperature": "x"}, {"temperature": 1e400}, {"top_k": -1}, {"top_k": 10**20}, {"top_p": [1]}, {"top_p": 2}],
    ids=str,
)
def test_samplers_that_are_none(change: dict[str, Any], tiny_copy: Path) -> None:
    (tiny_copy / "generation_config.json").write_text(json.dumps(change), encoding="utf-8")
    with pytest.raises(WrongModel, match=f"generation_config.json has {next(iter(change))}"):
        read_folder(tiny_copy)


@pytest.mark.parametrize("template", [b"\xff", b'{{ "x" * 4000000000 }}', b"{{ messages.no.such }}", b"{% if"])
def test_templates_that_may_not_go_into_a_bundle(template: bytes, tiny_copy: Path) -> None:
    (tiny_copy / "chat_template.jinja").write_bytes(template)
    with pytest.raises(TokenizerError, match="template"):
        read_folder(tiny_copy)
