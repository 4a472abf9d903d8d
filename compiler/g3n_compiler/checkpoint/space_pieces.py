"""A SentencePiece model whose pieces spell a space as a space.

SentencePiece writes ``▁`` for it. LiteRT-LM hands the pieces as they are spelled to its library of constraints, so in
an answer that must follow a JSON schema or a regular expression no token would hold a space
(``docs/upstream/litert-lm-constraints.md``). Ids, and the texts that they decode to, are the same in both spellings.
"""

from __future__ import annotations

import struct

from sentencepiece import sentencepiece_model_pb2 as pb

from g3n_compiler.checkpoint.tokenizer_json import SPACE

_TRIE = (0x38C00, 0x254E2, 0x20096, 0x1D81, 0x80000000, *(unit ^ 1 for unit in range(5, 256)))
SPACE_RULE = struct.pack("<257I", 4 * len(_TRIE), *_TRIE) + b" \0"
"""The rule that reads ``▁`` in a text as a space, as SentencePiece compiles it: a double-array trie with the bytes of
``▁`` and what stands for them."""


def with_spaces(model: bytes) -> bytes:
    """``model``, of Gemma's kind, in the spelling with spaces.

    It is given back as it is if two of its pieces would have the same name then.
    """
    proto = pb.ModelProto.FromString(model)
    names = [piece.piece.replace(SPACE, " ") for piece in proto.pieces]
    if len(set(names)) < len(names):
        return model
    _rename(proto, names)
    proto.normalizer_spec.escape_whitespaces = False
    proto.normalizer_spec.precompiled_charsmap = SPACE_RULE
    return bytes(proto.SerializeToString(deterministic=True))


def with_marks(model: bytes) -> bytes:
    """``model`` in SentencePiece's own spelling: what :func:`with_spaces` was given."""
    proto = pb.ModelProto.FromString(model)
    if proto.normalizer_spec.escape_whitespaces:
        return model
    _rename(proto, [piece.piece.replace(" ", SPACE) for piece in proto.pieces])
    proto.normalizer_spec.escape_whitespaces = True
    proto.normalizer_spec.ClearField("precompiled_charsmap")
    return bytes(proto.SerializeToString(deterministic=True))


def _rename(proto: pb.ModelProto, names: list[str]) -> None:
    for piece, name in zip(proto.pieces, names, strict=True):
        if piece.piece != name:
            piece.piece = name
