"""nano's tokenizer: the real ids, exact round trips, and a SentencePiece model that encodes alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from g3n_compiler.checkpoint.sentencepiece import check_equal, to_sentencepiece
from g3n_compiler.errors import UnsupportedTokenizer
from g3n_compiler.nano import checkpoint_dir, heldout_path
from nano_training import chat, corpus, tokenizer

ODD_TEXTS = (
    "",
    " ",
    "Hello, world! How are you?  two spaces",
    "   lead and trail   ",
    "tab\tx\r\ny\n\n\n\nz",
    "\n" * 70,
    " " * 70 + "x",
    "日本語 テスト 😀 \U0001f469\u200d\U0001f680",
    "e\u0301 \u200b \u2028 \ufeff \x00 \x7f \u00a0",
    "naïve Größe 12345 3.14",
    "def f(x):\n    return x + 1\n",
    "a" * 50 + "-" * 40 + "......!!!!",
    "((((()))))\"\"\"\"''''",
    "<start_of_turn>user\nhi<end_of_turn>\n<start_of_image><image_soft_token><audio_soft_token>",
    "<unused3> < unused3> <0x41> <start_of_turn",
)


@pytest.fixture(scope="module")
def fast() -> Tokenizer:
    return Tokenizer.from_file(str(checkpoint_dir() / "tokenizer.json"))


@pytest.fixture(scope="module")
def auto() -> Any:
    return AutoTokenizer.from_pretrained(checkpoint_dir())


@pytest.fixture(scope="module")
def heldout_texts() -> list[str]:
    # SentencePiece never matches control symbols in text
    return [d.text.removesuffix("<eos>") for d in corpus.read_documents(heldout_path())]


@pytest.mark.parametrize(
    ("token", "index"),
    [
        ("<pad>", 0),
        ("<eos>", 1),
        ("<bos>", 2),
        ("<unk>", 3),
        ("<mask>", 4),
        ("<unused0>", 5),
        ("<unused99>", 104),
        ("<start_of_turn>", 105),
        ("<end_of_turn>", 106),
        ("\n", 107),
        ("\n" * 31, 137),
        ("▁▁", 138),
        ("▁" * 31, 167),
        ("<0x00>", 168),
        ("<0xFF>", 423),
        ("<start_of_image>", 4094),
        ("<start_of_audio>", 4095),
        ("<end_of_image>", 4096),
        ("<image_soft_token>", 4097),
        ("<end_of_audio>", 4224),
        ("<audio_soft_token>", 4225),
    ],
)
def test_ids_of_specials(fast: Tokenizer, token: str, index: int) -> None:
    assert fast.token_to_id(token) == index
    assert fast.id_to_token(index) == token


def test_every_id_has_one_token(fast: Tokenizer) -> None:
    vocab = fast.get_vocab(with_added_tokens=True)
    assert sorted(vocab.values()) == list(range(tokenizer.VOCAB_SIZE))


def test_auto_tokenizer_adds_bos_and_knows_the_modalities(auto: Any) -> None:
    assert auto("Hi").input_ids[0] == tokenizer.BOS_ID == auto.bos_token_id
    assert (auto.pad_token_id, auto.eos_token_id, auto.unk_token_id) == (0, 1, 3)
    assert (auto.boi_token, auto.eoi_token, auto.image_token) == (
        "<start_of_image>",
        "<end_of_image>",
        "<image_soft_token>",
    )
    assert (auto.boa_token, auto.eoa_token, auto.audio_token) == (
        "<start_of_audio>",
        "<end_of_audio>",
        "<audio_soft_token>",
    )
    assert (auto.image_token_id, auto.audio_token_id) == (4097, 4225)


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_odd_text_survives(auto: Any, fast: Tokenizer, text: str) -> None:
    ids = fast.encode(text, add_special_tokens=False).ids
    assert fast.decode(ids, skip_special_tokens=False) == text
    assert auto(text, add_special_tokens=False).input_ids == ids
    assert tokenizer.UNK_ID not in ids


def test_heldout_text_survives(fast: Tokenizer, heldout_texts: list[str]) -> None:
    for text in heldout_texts:
        ids = fast.encode(text, add_special_tokens=False).ids
        assert fast.decode(ids, skip_special_tokens=False) == text


def test_sentencepiece_encodes_alike(heldout_texts: list[str]) -> None:
    texts = [*ODD_TEXTS, *heldout_texts]
    model = (checkpoint_dir() / "tokenizer.model").read_bytes()
    assert check_equal(checkpoint_dir() / "tokenizer.json", model, texts) == len(texts)


def test_shipped_sentencepiece_model_is_the_converted_one() -> None:
    converted = to_sentencepiece(checkpoint_dir() / "tokenizer.json")
    assert converted == (checkpoint_dir() / "tokenizer.model").read_bytes()


def test_sentencepiece_symbols() -> None:
    model = sentencepiece.SentencePieceProcessor(model_file=str(checkpoint_dir() / "tokenizer.model"))
    assert model.vocab_size() == tokenizer.VOCAB_SIZE
    assert (model.pad_id(), model.eos_id(), model.bos_id(), model.unk_id()) == (0, 1, 2, 3)
    assert [model.is_control(i) for i in range(5)] == [True, True, True, False, False]
    assert model.is_unknown(tokenizer.UNK_ID)
    assert model.is_byte(tokenizer.BYTES_ID) and model.is_byte(tokenizer.BYTES_ID + 255)
    assert model.encode("<end_of_turn>") == [tokenizer.END_OF_TURN_ID]
    assert model.decode(model.encode("héllo 日本")) == "héllo 日本"


def test_chat_template_matches_training_form(auto: Any) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is a dog?"},
        {"role": "assistant", "content": "An animal."},
    ]
    rendered = auto.apply_chat_template(messages, tokenize=False)
    assert rendered == "<bos>" + chat.render([("What is a dog?", "An animal.")], "Be brief.")
    prompt = auto.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert prompt.endswith("Be brief.\n\nWhat is a dog?<end_of_turn>\n<start_of_turn>model\n")


def test_chat_template_places_soft_tokens(auto: Any) -> None:
    content = [{"type": "image"}, {"type": "audio"}, {"type": "text", "text": " What? "}]
    rendered = auto.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    assert rendered == "<bos><start_of_turn>user\n<image_soft_token><audio_soft_token>What?<end_of_turn>\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda spec: spec["model"].update(type="Unigram"), "'Unigram', not 'BPE'"),
        (lambda spec: spec["model"].update(byte_fallback=False), "no byte fallback"),
        (lambda spec: spec["model"]["vocab"].pop("<0x41>"), "byte tokens are missing, first"),
        (lambda spec: spec.update(normalizer={"type": "NFKC"}), "normalizer"),
        (lambda spec: spec.update(pre_tokenizer={"type": "ByteLevel"}), "pre-tokenizer"),
        (lambda spec: spec["model"].update(ignore_merges=True), "ignore_merges"),
        (lambda spec: spec["model"]["merges"].pop(), "merges leave out"),
    ],
)
def test_foreign_tokenizers_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    spec = json.loads((checkpoint_dir() / "tokenizer.json").read_text("utf-8"))
    change(spec)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(spec), "utf-8")
    with pytest.raises(UnsupportedTokenizer, match=message):
        to_sentencepiece(path)


def test_check_equal_tells_where_ids_differ() -> None:
    path = checkpoint_dir() / "tokenizer.json"
    with pytest.raises(ValueError, match="token 0 of '<bos>'"):
        check_equal(path, to_sentencepiece(path), ["<bos>"])
