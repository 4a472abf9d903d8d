"""The SentencePiece model of a ``.litertlm``: the checkpoint's own, or one whose tool calls LiteRT-LM can constrain.

For calls of tools under a constraint, and so for every chat of ``litert-lm serve`` with a file of the type ``gemma3n``,
the engine knows a few vocabularies, by a hash of all pieces, their spelling and their number: nano's is none of them,
Gemma 3's 262,144 pieces are one (seen with LiteRT-LM 0.18.1, which says "Unsupported vocabulary type" of others). Gemma
3n has these and 256 for pictures and sounds, which a file with tools does not take.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sentencepiece import sentencepiece_model_pb2 as pb

from g3n_compiler.checkpoint.sentencepiece import PADDING
from g3n_compiler.checkpoint.space_pieces import with_marks
from g3n_compiler.checkpoint.tokenizer import TextTokenizer
from g3n_compiler.lower.litert.metadata import llm_metadata
from g3n_compiler.lower.litert.stand_in import CONTEXT, stand_in

GEMMA_PIECES = 262_144
RENAMED = 256_000, "<end_of_image>"
"""The piece of Gemma 3 that Gemma 3n calls ``<start_of_audio>``."""


@dataclass(frozen=True)
class EngineTokenizer:
    """What the engine's file holds."""

    model: bytes
    suppressed: range = range(0)
    """Rows of the vocabulary without a piece, on which the engine would fail: it never draws them."""


def engine_tokenizer(tokenizer: TextTokenizer, tools: bool) -> EngineTokenizer:
    """The tokenizer for the engine's file; it reads every text with the ids of the checkpoint's.

    With Gemma's vocabulary and ``tools``, texts that spell ``<start_of_audio>`` and ``<end_of_image>`` are read
    otherwise: neither has a meaning without media.
    """
    if tools:
        rows = len(pb.ModelProto.FromString(tokenizer.sentencepiece).pieces)
        llm = llm_metadata(CONTEXT, tokenizer, tokenizer.template.jinja, tools=True)
        for candidate in _known(tokenizer.sentencepiece):
            model = bytes(candidate.SerializeToString(deterministic=True))
            with stand_in(model, llm) as engine:
                if engine.constrains_calls():
                    return EngineTokenizer(model, range(len(candidate.pieces), rows))
    return EngineTokenizer(tokenizer.sentencepiece)


def _known(model: bytes) -> Iterator[pb.ModelProto]:
    """Forms of ``model`` that the engine may know."""
    proto = pb.ModelProto.FromString(with_marks(model))
    while proto.pieces[-1].piece.startswith(PADDING):
        del proto.pieces[-1]
    proto.trainer_spec.vocab_size = len(proto.pieces)
    yield proto
    if len(proto.pieces) > GEMMA_PIECES:
        index, name = RENAMED
        for piece in proto.pieces:
            if piece.piece == name:
                piece.piece = f"<unused_{name[1:]}"
        proto.pieces[index].piece = name
        del proto.pieces[GEMMA_PIECES:]
        proto.trainer_spec.vocab_size = GEMMA_PIECES
        yield proto
