"""Examples: what the decoder reads is what ``transformers`` reads, and whatever is wrong with a file is said."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from PIL import Image

from g3n_compiler.calibrate import examples
from g3n_compiler.calibrate.examples import Example, Reading, examples_sha256, load_examples
from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.errors import ExampleError, MediaError, UnsafePath
from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.quantize.recipe import get_recipe
from g3n_compiler.source import Source
from g3n_compiler.verify.checks import relative_error
from g3n_compiler.verify.reference import Reference
from nano_training import calibration_set, heldout_senses
from nano_training.evaluate_senses import Reference as HfSenses
from nano_training.heldout_senses import Question
from nano_training.voices import RATE
from tests.conftest import TinyModel
from tests.damage import mutated


@pytest.fixture(scope="module")
def nano() -> Source:
    return Source.open(checkpoint_dir())


def reading(source: Source, recipe: str = "fp32") -> Reading:
    return Reading(source, load_tokenizer(source.directory, source.text, source.modalities), get_recipe(recipe))


def written(folder: Path, *lines: Any) -> Path:
    path = folder / "examples.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), "utf-8")
    return path


def saved(question: Question, folder: Path) -> Example:
    """A held-out question as a user would write it down."""
    if question.image is not None:
        question.image.save(folder / "picture.png")
        media = {"images": ["picture.png"]}
    else:
        assert question.sound is not None
        soundfile.write(folder / "sound.wav", question.sound, RATE, subtype="FLOAT")
        media = {"audio": ["sound.wav"]}
    (example,) = load_examples(written(folder, {"prompt": question.text, "answer": question.answer, **media}))
    return example


@pytest.mark.parametrize("which", [0, 1, 2], ids=["digit", "scene", "speech"])
def test_rows_are_what_transformers_reads(which: int, nano: Source, tmp_path: Path) -> None:
    """The decoder's logits over them are the library's over the same prompt and answer."""
    question = heldout_senses.questions(1, 1, 1)[which]
    rows = reading(nano).rows(saved(question, tmp_path))
    hf = HfSenses(checkpoint_dir())
    inputs = hf.inputs(question.text, question.images, question.sounds)
    answer = hf._processor.tokenizer.encode(question.answer, add_special_tokens=False)
    ids = torch.cat((inputs["input_ids"][0], torch.tensor(answer)))
    assert (len(rows), rows.answered) == (len(ids), inputs["input_ids"].shape[1] - 1)
    inputs["attention_mask"] = torch.ones(1, len(ids), dtype=torch.int64)
    with torch.no_grad():
        wanted = hf._model(**{**inputs, "input_ids": ids[None]}).logits[0, rows.answered :]
        got = decode(nano, rows.embeddings, rows.ple)[rows.answered :]
    assert relative_error(got.numpy(), wanted.numpy()) < 1e-3


def decode(source: Source, embeddings: torch.Tensor, ple: torch.Tensor) -> torch.Tensor:
    from g3n_compiler.models.eager_cache import EagerCache

    reference = Reference(source)
    at = torch.arange(len(embeddings))
    return reference.decoder.decode(embeddings[None], ple[None], at, EagerCache(source.text))[0]


def test_text_counts_from_its_bos_on(nano: Source) -> None:
    text = "In the beginning God created the heaven and the earth."
    tokenizer = load_tokenizer(nano.directory, nano.text)
    rows = reading(nano).rows(Example("", text, plain=True))
    ids = [tokenizer.bos_id, *tokenizer.encode(text)][:-1]
    assert rows.answered == 0
    assert torch.equal(rows.embeddings, Reference(nano).tables.embeddings(ids)[0])


def test_rows_are_rounded_as_a_bundle_rounds_them(nano: Source) -> None:
    example = Example("What is a dog?", "An animal.")
    exact, rounded = reading(nano).rows(example), reading(nano, "int4").rows(example)
    assert not torch.equal(exact.ple, rounded.ple)
    torch.testing.assert_close(exact.embeddings, rounded.embeddings, rtol=0, atol=0.05)


BAD = {
    "not JSON": ("{", "line 1 is not JSON"),
    "a list": ([1], "line 1: expected a JSON object"),
    "unknown field": ({"prompt": "a", "answer": "b", "image": "c"}, "unknown field 'image'"),
    "no answer": ({"prompt": "a"}, "expected a prompt and an answer"),
    "a number": ({"prompt": "a", "answer": 3}, "answer is 3, expected a string"),
    "a name that is no list": ({"prompt": "a", "answer": "b", "images": "x.png"}, "expected strings in a list"),
    "numbers for names": ({"prompt": "a", "answer": "b", "images": [1]}, "expected strings in a list"),
    "a missing picture": ({"prompt": "a", "answer": "b", "images": ["x/y.png"]}, "there is no file x/y.png beside it"),
    "half a character": ({"text": "a\ud800"}, "line 1 is not UTF-8"),
    "no text": ({"text": ""}, "text is empty"),
    "text and prompt": ({"text": "a", "prompt": "b"}, "text must be the only field"),
    "an integer of 5,000 digits": ('{"text": ' + "1" * 5000 + "}", "line 1 is not JSON"),
    "deep nesting": ("[" * 100_000, "line 1 is not JSON"),
    "Infinity": ('{"text": Infinity}', "Infinity is not a JSON number"),
    "a line of 2 MB": ({"text": "a" * 2_000_000}, "at most 1048576 are read"),
    "10,000 pictures": ({"prompt": "a", "answer": "b", "images": ["x"] * 10_000}, "at most 128 are read"),
    "a folder": ({"prompt": "a", "answer": "b", "images": ["folder"]}, "there is no file folder beside it"),
    "a pipe": ({"prompt": "a", "answer": "b", "audio": ["pipe"]}, "there is no file pipe beside it"),
    "a name of 5,000 letters": ({"prompt": "a", "answer": "b", "images": ["x" * 5000]}, "is not a file name"),
    "links in a circle": ({"prompt": "a", "answer": "b", "images": ["circle/x"]}, "leads nowhere"),
}


@pytest.mark.parametrize("line, message", BAD.values(), ids=BAD)
def test_a_malformed_line_is_named(line: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises((ExampleError, UnsafePath), match=message):
        load_examples(written(tmp_path, line))


def test_a_line_ends_with_a_newline_only(tmp_path: Path) -> None:
    text = "one\u2028two\u0085three"
    path = written(tmp_path, json.dumps({"text": text}, ensure_ascii=False), "", {"text": "b"})
    assert [e.answer for e in load_examples(path)] == [text, "b"]


def test_files_that_are_no_examples(tmp_path: Path) -> None:
    with pytest.raises(ExampleError, match="is a folder, expected a file"):
        load_examples(tmp_path)
    with pytest.raises(ExampleError, match="holds no examples"):
        load_examples(written(tmp_path, ""))
    (tmp_path / "examples.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ExampleError, match="is not UTF-8"):
        load_examples(tmp_path / "examples.jsonl")


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "MAX_BYTES", 10)
    with pytest.raises(ExampleError, match="at most 10 are read"):
        load_examples(written(tmp_path, {"text": "some text"}))


def test_a_pipe_or_a_device_is_no_file_of_examples(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ExampleError, match="is a pipe"):
        load_examples(tmp_path / "pipe")
    with pytest.raises(ExampleError, match="is a device"):
        load_examples(Path("/dev/zero"))


def test_the_count_of_examples_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "MAX_EXAMPLES", 2)
    assert len(load_examples(written(tmp_path, *[{"text": "a"}] * 2))) == 2
    with pytest.raises(ExampleError, match="3 examples, but at most 2"):
        load_examples(written(tmp_path, *[{"text": "a"}] * 3))


@settings(max_examples=150, deadline=None)
@given(data=mutated(calibration_set.path().read_bytes()[:3000].rpartition(b"\n")[0]))
def test_a_damaged_file_is_read_or_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "examples.jsonl")
        path.write_bytes(data)
        with contextlib.suppress(ExampleError, UnsafePath):
            load_examples(path)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../b.png", "a\0b", "link/hosts"])
def test_media_lie_beside_the_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(UnsafePath, match="leads out"):
        load_examples(written(tmp_path, {"prompt": "a", "answer": "b", "images": [name]}))


def test_a_broken_picture_is_named(nano: Source, tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"no picture")
    (example,) = load_examples(written(tmp_path, {"prompt": "a", "answer": "b", "images": ["picture.png"]}))
    with pytest.raises(MediaError, match=r"picture\.png"):
        reading(nano).rows(example)


def test_a_checkpoint_without_towers_says_so(tiny: TinyModel, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE, np.float32), RATE)
    source = tiny.open()
    tokenizer = load_tokenizer(checkpoint_dir(), source.text)
    for media, tower in ({"images": (tmp_path / "a.png",)}, "vision"), ({"audio": (tmp_path / "a.wav",)}, "audio"):
        with pytest.raises(ExampleError, match=f"no {tower} tower"):
            Reading(source, tokenizer, get_recipe("int4")).rows(Example("a", "b", **media))


def test_an_example_longer_than_the_context(tiny: TinyModel) -> None:
    source = tiny.open()
    tokenizer = load_tokenizer(checkpoint_dir(), source.text)
    with pytest.raises(ExampleError, match="longer than the model's context"):
        Reading(source, tokenizer, get_recipe("int4")).rows(Example("a", "word " * 600))


def test_the_hash_covers_the_media(tmp_path: Path) -> None:
    path = written(tmp_path, {"prompt": "a", "answer": "b", "images": ["a.png"]})
    (tmp_path / "a.png").write_bytes(b"1")
    before = examples_sha256(path, load_examples(path))
    (tmp_path / "a.png").write_bytes(b"2")
    assert examples_sha256(path, load_examples(path)) != before


def test_nanos_own_examples_are_no_held_out_questions(nano: Source) -> None:
    examples = load_examples(calibration_set.path())
    assert len(examples) == sum(
        (calibration_set.SCENES, calibration_set.DIGITS, calibration_set.CLIPS, calibration_set.TEXTS)
    )
    heldout = {path.read_bytes() for path in (heldout_senses.folder() / "speech").iterdir()}
    sounds = [path.read_bytes() for e in examples for path in e.audio]
    assert len(sounds) == calibration_set.CLIPS and not heldout & set(sounds)
