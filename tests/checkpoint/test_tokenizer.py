"""The tokenizer as engines get it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from g3n_compiler.checkpoint.sentencepiece import pad_to_vocabulary
from g3n_compiler.checkpoint.tokenizer import TextTokenizer, load_tokenizer
from g3n_compiler.errors import TokenizerError, UnsupportedTokenizer
from g3n_compiler.models.gemma3n.text_config import load_text_config
from g3n_compiler.nano import checkpoint_dir
from tests.conftest import TinyModel


def test_every_id_of_the_model_has_a_piece(tiny: TinyModel) -> None:
    """A random model draws ids that no text has; the engine must not fail on them."""
    model = load_tokenizer(tiny.directory, tiny.open().text).sentencepiece
    padded = sentencepiece.SentencePieceProcessor(model_proto=pad_to_vocabulary(model, 5000))
    plain = sentencepiece.SentencePieceProcessor(model_file=str(Path(checkpoint_dir()) / "tokenizer.model"))
    assert padded.get_piece_size() == 5000 and padded.is_unused(4999)
    text = "<start_of_turn>user\nWhat is a river?<end_of_turn>\n"
    assert padded.encode(text) == plain.encode(text)
    assert padded.decode([*plain.encode("a river"), 4999])


@pytest.fixture
def text_files(tmp_path: Path) -> Path:
    """Nano's tokenizer alone."""
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(checkpoint_dir() / name, tmp_path / name)
    return tmp_path


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text(encoding="utf-8"))
    edit(spec)
    path.write_text(json.dumps(spec), encoding="utf-8")


def name_unused(spec: dict[str, Any], text: str, **flags: bool) -> None:
    """Give an unused token a name, as people do who may not add rows."""
    token = next(t for t in spec["added_tokens"] if t["content"] == "<unused3>")
    vocabulary = spec["model"]["vocab"]
    vocabulary[text] = vocabulary.pop(token["content"])
    token.update({"content": text, "normalized": True, "special": False, **flags})


def load(folder: Path, remark: Callable[[str], None] = lambda _: None) -> TextTokenizer:
    return load_tokenizer(folder, load_text_config(checkpoint_dir()), remark=remark)


@pytest.mark.parametrize("flag", ["single_word", "lstrip", "rstrip"])
def test_an_added_token_that_engines_find_elsewhere_is_refused(flag: str, text_files: Path) -> None:
    change(text_files, lambda spec: name_unused(spec, "cat", **{flag: True}))
    with pytest.raises(TokenizerError, match=f"'cat' with {flag}, which no engine has"):
        load(text_files)


def test_an_added_token_with_a_space_is_found(text_files: Path) -> None:
    change(text_files, lambda spec: name_unused(spec, "hot dog", normalized=False))
    tokenizer = load(text_files)
    model = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.sentencepiece)
    for text in ("a hot dog  hot dog", "hotdog"):
        assert model.encode(text) == tokenizer.encode(text)


def test_a_stale_model_that_merges_in_another_order_is_not_used(text_files: Path) -> None:
    """None of the texts that are compared has one of these tokens."""
    change(text_files, lambda spec: spec["model"]["merges"].reverse())
    said: list[str] = []
    assert load(text_files, said.append).sentencepiece_origin == "tokenizer.json"
    assert any("in another order" in line for line in said)


@pytest.mark.parametrize(
    "edit",
    [
        lambda spec: spec["model"].update(ignore_merges=True),
        lambda spec: spec["model"]["merges"].pop(),
        lambda spec: spec.update(normalizer={"type": "Sequence", "normalizers": [spec["normalizer"], {"type": "NFC"}]}),
    ],
)
def test_a_model_beside_rules_that_it_cannot_have_does_not_help(
    edit: Callable[[dict[str, Any]], object], text_files: Path
) -> None:
    change(text_files, edit)
    with pytest.raises(UnsupportedTokenizer, match="cannot become a SentencePiece model"):
        load(text_files)
