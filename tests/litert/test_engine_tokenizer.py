"""The tokenizer of the engine's file. Gemma's vocabulary itself: ``tests/e2e/test_real_tokenizer.py``."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sentencepiece import sentencepiece_model_pb2 as pb

from g3n_compiler.checkpoint.sentencepiece import pad_to_vocabulary
from g3n_compiler.checkpoint.space_pieces import with_marks, with_spaces
from g3n_compiler.lower.litert import engine_tokenizer as module
from g3n_compiler.lower.litert.engine_tokenizer import GEMMA_PIECES, RENAMED, EngineTokenizer, engine_tokenizer
from g3n_runtime.litert.engine import LiteRtEngine
from tests.prompts import nano_tokenizer


@pytest.mark.parametrize("tools", [False, True])
def test_nanos_vocabulary_is_the_checkpoints_own(tools: bool) -> None:
    """With tools the engine itself is asked, and does not know it."""
    assert engine_tokenizer(nano_tokenizer(), tools) == EngineTokenizer(nano_tokenizer().sentencepiece)


def test_a_vocabulary_that_the_engine_knows_has_no_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LiteRtEngine, "constrains_calls", lambda _: True)
    own = with_marks(nano_tokenizer().sentencepiece)
    count = len(pb.ModelProto.FromString(own).pieces)
    padded = with_spaces(pad_to_vocabulary(own, count + 7))
    found = engine_tokenizer(replace(nano_tokenizer(), sentencepiece=padded), True)
    assert pb.ModelProto.FromString(found.model).pieces == pb.ModelProto.FromString(own).pieces
    assert found.suppressed == range(count, count + 7)


def test_of_a_longer_vocabulary_gemma_3s_pieces_are_offered() -> None:
    proto = pb.ModelProto()
    proto.normalizer_spec.escape_whitespaces = True
    for index in range(GEMMA_PIECES + 3):
        proto.pieces.add(piece=f"<{index}>")
    index, name = RENAMED
    proto.pieces[index].piece, proto.pieces[GEMMA_PIECES].piece = "<start_of_audio>", name
    whole, gemma = _copies(proto.SerializeToString())
    assert len(whole.pieces) == GEMMA_PIECES + 3 and whole.pieces[index].piece == "<start_of_audio>"
    assert len(gemma.pieces) == gemma.trainer_spec.vocab_size == GEMMA_PIECES and gemma.pieces[index].piece == name


def _copies(model: bytes) -> list[pb.ModelProto]:
    """The candidates as they are at their turn: the second one is made of the first."""
    return [pb.ModelProto.FromString(candidate.SerializeToString()) for candidate in module._known(model)]
