"""The spelling of pieces that LiteRT-LM's constraints need: the same ids and texts, with spaces in the pieces."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as pb

from g3n_compiler.checkpoint.sentencepiece import TEXTS
from g3n_compiler.checkpoint.space_pieces import SPACE_RULE, with_marks, with_spaces
from g3n_compiler.nano import checkpoint_dir
from tests.prompts import nano_tokenizer

OTHERS = ("▁▁ a", " ▁b", "  ▁  ", "<start_of_turn>user\n  Hi ▁<end_of_turn>\n", "größe", "a▁b c", "")


@pytest.fixture(scope="module")
def marked() -> bytes:
    return (checkpoint_dir() / "tokenizer.model").read_bytes()


def test_ids_and_texts_are_the_same(marked: bytes) -> None:
    before = sentencepiece.SentencePieceProcessor(model_proto=marked)
    after = sentencepiece.SentencePieceProcessor(model_proto=with_spaces(marked))
    for text in (*TEXTS, *OTHERS):
        ids = before.encode(text)
        assert after.encode(text) == ids and after.decode(ids) == before.decode(ids), text
    for token in range(before.get_piece_size()):
        assert after.decode([token]) == before.decode([token]), token


def test_a_bundle_has_the_pieces_with_spaces() -> None:
    pieces = [piece.piece for piece in pb.ModelProto.FromString(nano_tokenizer().sentencepiece).pieces]
    assert not any("▁" in piece for piece in pieces) and any(" " in piece for piece in pieces)


def test_the_other_spelling_comes_back(marked: bytes) -> None:
    assert pb.ModelProto.FromString(with_marks(with_spaces(marked))) == pb.ModelProto.FromString(marked)


def test_the_rule_is_the_one_that_sentencepiece_compiles(tmp_path: Path) -> None:
    rules = tmp_path / "rules.tsv"
    rules.write_text("2581\t20\n")
    compiled = sentencepiece.SentencePieceNormalizer(rule_tsv=str(rules)).serialized_model_proto()
    assert pb.ModelProto.FromString(compiled).normalizer_spec.precompiled_charsmap == SPACE_RULE


def test_two_spellings_of_one_piece_leave_the_model_alone(marked: bytes) -> None:
    proto = pb.ModelProto.FromString(marked)
    proto.pieces.add(piece=" the", type=pb.ModelProto.SentencePiece.USER_DEFINED)
    assert any(piece.piece == "▁the" for piece in proto.pieces)
    both = proto.SerializeToString()
    assert with_spaces(both) == both
