"""Padding ``tokenizer.json``: every id gets a name, and text keeps its ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pytorch_tokenizers import CppHFTokenizer
from tokenizers import Tokenizer

from g3n_compiler.checkpoint.tokenizer_json import for_executorch
from g3n_compiler.nano import checkpoint_dir

SOURCE = checkpoint_dir() / "tokenizer.json"
SIZE = Tokenizer.from_file(str(SOURCE)).get_vocab_size()
TEXT = "What is a river?<end_of_turn>\n<start_of_turn>model\nlibÉré"


def test_a_full_tokenizer_without_spaces_in_added_tokens_keeps_its_bytes(tmp_path: Path) -> None:
    spec = json.loads(SOURCE.read_text(encoding="utf-8"))
    for token in spec["added_tokens"]:
        if "▁" in token["content"]:
            vocabulary, content = spec["model"]["vocab"], f"<run{token['id']}>"
            vocabulary[content] = vocabulary.pop(token["content"])
            token["content"] = content
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(spec), encoding="utf-8")
    assert for_executorch(path, SIZE) == path.read_bytes()


@pytest.mark.parametrize(
    "text", ["  two", "a\n\n\n    b\t  c", " " * 40, "def f(x):\n    return x", "<end_of_turn>\n  x"]
)
def test_the_runner_finds_runs_of_spaces(text: str, tmp_path: Path) -> None:
    """It looks for added tokens before it replaces spaces; the file as it is gives it other ids."""
    path, (stock, as_it_is) = tmp_path / "tokenizer.json", (CppHFTokenizer(), CppHFTokenizer())
    path.write_bytes(for_executorch(SOURCE, SIZE))
    stock.load(str(path))
    as_it_is.load(str(SOURCE))
    want = Tokenizer.from_file(str(SOURCE)).encode(text, add_special_tokens=False).ids
    assert stock.encode(text, 0, 0) == want == Tokenizer.from_file(str(path)).encode(text, add_special_tokens=False).ids
    assert as_it_is.encode(text, 0, 0) != want


@pytest.mark.parametrize("text", ["a b", " two words", "x  y"])
def test_a_split_at_spaces_does_not_reach_the_runner(text: str, tmp_path: Path) -> None:
    """Gemma's own file has it, behind a normalizer that leaves no space; the runner splits first."""
    spec = json.loads(SOURCE.read_text(encoding="utf-8"))
    spec["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"String": " "},
        "behavior": "MergedWithPrevious",
        "invert": False,
    }
    source, path, stock = tmp_path / "source.json", tmp_path / "tokenizer.json", CppHFTokenizer()
    source.write_text(json.dumps(spec), encoding="utf-8")
    path.write_bytes(for_executorch(source, SIZE))
    stock.load(str(path))
    assert stock.encode(text, 0, 0) == Tokenizer.from_file(str(source)).encode(text, add_special_tokens=False).ids


def test_every_id_has_a_name_for_both_readers(tmp_path: Path) -> None:
    """A smaller tokenizer than the model's vocabulary, with a gap as well."""
    spec = json.loads(SOURCE.read_text(encoding="utf-8"))
    gap = max(spec["added_tokens"], key=lambda token: token["id"])
    spec["added_tokens"].remove(gap)
    del spec["model"]["vocab"][gap["content"]]
    moved = {**gap, "id": gap["id"] + 3}
    spec["added_tokens"].append(moved)
    source, path = tmp_path / "source.json", tmp_path / "tokenizer.json"
    source.write_text(json.dumps(spec), encoding="utf-8")
    path.write_bytes(for_executorch(source, SIZE + 40))

    ours, stock = Tokenizer.from_file(str(path)), CppHFTokenizer()
    stock.load(str(path))
    assert ours.get_vocab_size() == SIZE + 40
    for i in range(SIZE - 2, SIZE + 40):
        assert ours.id_to_token(i) and ours.id_to_token(i) == stock.decode(i)
    assert ours.id_to_token(gap["id"]) == f"<g3n_unused{gap['id']}>"
    assert ours.token_to_id(gap["content"]) == moved["id"]
    assert ours.encode(TEXT, add_special_tokens=False).ids == stock.encode(TEXT, 0, 0)
    assert ours.encode(TEXT).ids == Tokenizer.from_file(str(SOURCE)).encode(TEXT).ids


def test_the_runner_fails_without_it(tmp_path: Path) -> None:
    stock = CppHFTokenizer()
    stock.load(str(SOURCE))
    with pytest.raises(RuntimeError):
        stock.decode(SIZE + 5)
