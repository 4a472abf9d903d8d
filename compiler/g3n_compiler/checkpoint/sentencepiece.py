"""Convert a Hugging Face ``tokenizer.json`` of Gemma's kind into a SentencePiece BPE model that encodes identically.

Android runtimes read ``tokenizer.model``, but many checkpoints ship only ``tokenizer.json``. SentencePiece merges the
adjacent pair whose union has the best score, so a piece's score is minus the rank of its first merge. SentencePiece
never matches control symbols (``<pad>``, ``<eos>``, ``<bos>``) in text; the caller adds them by id.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import sentencepiece
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from sentencepiece import sentencepiece_model_pb2 as pb

from g3n_compiler.checkpoint.fields import present
from g3n_compiler.checkpoint.lfs import is_lfs_pointer
from g3n_compiler.checkpoint.merge_rules import check_rules, out_of_order, pair, require
from g3n_compiler.checkpoint.remark import Remark, no_remark
from g3n_compiler.checkpoint.tokenizer_json import (
    SPACE,
    load_fast_tokenizer,
    read_tokenizer_json,
)
from g3n_compiler.errors import TokenizerError
from g3n_compiler.models.gemma3n.text_config import MAX_VOCABULARY
from g3n_runtime.reading import read_bytes

CONTROL_SYMBOLS = ("<pad>", "<eos>", "<bos>")
UNKNOWN_SYMBOL = "<unk>"
MAX_BYTES = 64 << 20
"""Fourteen times the size of Gemma's."""
MAX_PIECE = 1024
"""In characters."""
PADDING = "<g3n_unused"
"""Begins the names of pieces that stand for rows of the vocabulary without a token."""
_UNMERGED_SCORE = -1e7


def _byte_name(value: int) -> str:
    return f"<0x{value:02X}>"


def _check(path: Path, spec: Mapping[str, Any]) -> None:
    model = spec["model"]
    check_rules(path, spec)
    require(path, bool(model.get("byte_fallback")), "it has no byte fallback")
    vocab = model["vocab"]
    require(path, isinstance(model.get("merges"), list), "it has no list of merges")
    absent = [_byte_name(b) for b in range(256) if _byte_name(b) not in vocab]
    require(path, not absent, f"{len(absent)} of the 256 byte tokens are missing, first {absent[:1]}")
    require(path, UNKNOWN_SYMBOL in vocab, f"it has no {UNKNOWN_SYMBOL}")


def _merge_ranks(model: Mapping[str, Any]) -> dict[str, int]:
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        left, right = pair(merge)
        ranks.setdefault(left + right, rank)
    return ranks


TEXTS = (
    "What is a dog? It's 12,345.67 €; see (a) & [b]: x_1 = {y} <b>…</b>",
    "  two\n\n\n\tindented   lines  \r\n",
    "Grüße, naïve façade — Żółć, Ελληνικά, Русский, العربية, हिन्दी, 東京タワー, 한국어, ไทย 🙂🏽👩‍👩‍👧",
    "def f(x):\n    return x ** 2  # ▁ underscore\n" + "=" * 40,
)
"""Texts on which a ``tokenizer.model`` is compared with the ``tokenizer.json`` beside it, besides the vocabulary."""


def choose_sentencepiece(directory: Path, spec: Mapping[str, Any], remark: Remark = no_remark) -> tuple[bytes, str]:
    """The SentencePiece model that encodes as ``tokenizer.json`` does, and the name of the file that it comes from.

    That is the folder's ``tokenizer.model`` if it agrees, otherwise one that is made from ``tokenizer.json``, which is
    what ``transformers`` reads.

    Args:
        spec: the content of ``tokenizer.json``.

    Raises:
        TokenizerError: ``tokenizer.model`` is a git-lfs pointer.
        UnsupportedTokenizer: no SentencePiece model can be made.
    """
    own, fast = directory / "tokenizer.model", directory / "tokenizer.json"
    if not present(own):
        return to_sentencepiece(fast, spec), fast.name
    if is_lfs_pointer(read_bytes(own, MAX_BYTES, TokenizerError)[:64]):
        raise TokenizerError(f"{own} is a git-lfs pointer, not the file: run git lfs pull in its folder")
    check_rules(fast, spec)
    try:
        model = read_sentencepiece(own)
        if (difference := _difference(fast, spec, model)) is None:
            return model, own.name
    except TokenizerError as error:
        difference = str(error)
    remark(
        f"{own.name} is not used, {fast.name} is, as in transformers, and a SentencePiece model is made from it: "
        f"{difference}"
    )
    return to_sentencepiece(fast, spec), fast.name


def _difference(tokenizer_json: Path, spec: Mapping[str, Any], model: bytes) -> str | None:
    """What a SentencePiece model has otherwise than ``tokenizer.json``: a token's name, or the ids of a text."""
    pieces = pb.ModelProto.FromString(model).pieces
    names = {index: token for token, index in spec["model"]["vocab"].items()}
    names |= {token["id"]: token["content"] for token in spec.get("added_tokens") or []}
    for index, piece in enumerate(pieces):
        if piece.type != pb.ModelProto.SentencePiece.UNUSED and piece.piece != names.get(index, piece.piece):
            return f"it calls token {index} {piece.piece[:40]!r}, which is {names[index][:40]!r}"
    known = {piece.piece for piece in pieces}
    if missing := [index for index in names if index < len(pieces) and names[index] not in known]:
        return f"it lacks token {missing[0]}, {names[missing[0]][:40]!r}"
    in_turns = [names[index] for index in names if index >= len(pieces) and names[index] in known]
    if in_turns:
        return f"it has {in_turns[0][:40]!r} at another id"
    scores = {p.piece: p.score for p in pieces if p.type == pb.ModelProto.SentencePiece.NORMAL}
    if (late := out_of_order(spec, scores)) is not None:
        return f"it merges to {late[:40]!r} in another order"
    longest = sorted(names.values(), key=len)[-200:]
    plain = [text for text in (*TEXTS, *longest) if not any(symbol in text for symbol in (*CONTROL_SYMBOLS, "<unk>"))]
    try:
        check_equal(tokenizer_json, model, plain)
    except (ValueError, RuntimeError) as error:
        return str(error)[:200]
    return None


def read_sentencepiece(path: Path) -> bytes:
    """The bytes of a ``tokenizer.model`` of Gemma's kind; everything that the library relies on is checked.

    Raises:
        TokenizerError: it is missing, damaged, or of another kind.
    """
    data = read_bytes(path, MAX_BYTES, TokenizerError)
    try:
        _check_model(pb.ModelProto.FromString(data))
    except DecodeError:
        raise TokenizerError(f"{path} is damaged: it is not a SentencePiece model, so copy it again") from None
    except ValueError as error:  # also UnicodeDecodeError
        raise TokenizerError(f"{path} is not a SentencePiece model of Gemma's kind ({error}): copy it again") from None
    return data


def _check_model(model: pb.ModelProto) -> None:
    """Raise ``ValueError`` for anything but a plain BPE over the text itself, with every piece once."""
    trainer, normalizer, kinds = model.trainer_spec, model.normalizer_spec, pb.ModelProto.SentencePiece
    if not 0 < len(model.pieces) <= MAX_VOCABULARY:
        raise ValueError(f"it has {len(model.pieces)} pieces, expected 1 to {MAX_VOCABULARY}")
    if trainer.model_type not in (pb.TrainerSpec.BPE, pb.TrainerSpec.UNIGRAM):
        raise ValueError(f"its model_type is {trainer.model_type}, expected BPE")
    if normalizer.precompiled_charsmap or model.denormalizer_spec.precompiled_charsmap:
        raise ValueError("it rewrites characters before it splits text, which Gemma's does not")
    names: set[str] = set()
    count = dict.fromkeys(kinds.Type.values(), 0)
    for number, piece in enumerate(model.pieces):
        if not 0 < len(piece.piece) <= MAX_PIECE or piece.piece in names:
            raise ValueError(f"piece {number} is empty, duplicate, or longer than {MAX_PIECE} characters")
        if not math.isfinite(piece.score):
            raise ValueError(f"piece {number} has the score {piece.score}")
        names.add(piece.piece)
        count[piece.type] += 1
    if count[kinds.UNKNOWN] != 1:
        raise ValueError(f"it has {count[kinds.UNKNOWN]} unknown pieces, expected one")
    byte_names = {_byte_name(b) for b in range(256)}
    if count[kinds.BYTE] and (count[kinds.BYTE] != 256 or not byte_names <= names):
        raise ValueError(f"it has {count[kinds.BYTE]} byte pieces, expected one for each of the 256")
    if trainer.byte_fallback and not count[kinds.BYTE]:
        raise ValueError("it falls back to bytes but has no byte pieces")


def pad_to_vocabulary(model: bytes, size: int) -> bytes:
    """``model`` with unused pieces added up to ``size``: an engine fails on an id that its tokenizer lacks.

    Raises:
        TokenizerError: the model has more pieces than that, or the library, which engines use, does not load it.
    """
    proto = pb.ModelProto.FromString(model)
    if len(proto.pieces) > size:
        raise TokenizerError(
            f"tokenizer.model has {len(proto.pieces)} pieces, but the model's vocabulary has {size}: "
            "it is not the model's tokenizer"
        )
    for i in range(len(proto.pieces), size):
        proto.pieces.add(piece=f"{PADDING}{i}>", score=0.0, type=pb.ModelProto.SentencePiece.UNUSED)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    padded = bytes(proto.SerializeToString(deterministic=True))
    try:
        sentencepiece.SentencePieceProcessor(model_proto=padded)
    except RuntimeError as error:
        raise TokenizerError(f"SentencePiece does not load the tokenizer ({error}): copy it again") from None
    return padded


def read_in_texts(model: bytes, symbols: Collection[str]) -> bytes:
    """``model`` with control symbols that it also finds in a text, as ``transformers`` does: templates write some."""
    proto, kinds = pb.ModelProto.FromString(model), pb.ModelProto.SentencePiece
    for piece in proto.pieces:
        if piece.piece in symbols and piece.type == kinds.CONTROL:
            piece.type = kinds.USER_DEFINED
    return bytes(proto.SerializeToString(deterministic=True))


def to_sentencepiece(tokenizer_json: Path, spec: Mapping[str, Any] | None = None) -> bytes:
    """The serialized SentencePiece model with the ids of ``tokenizer_json``.

    Raises :class:`~g3n_compiler.errors.UnsupportedTokenizer` if the tokenizer is not a BPE with byte fallback whose
    only normalizer replaces spaces. Ids without a token get the name ``<unused_gap{id}>``.
    """
    spec = read_tokenizer_json(tokenizer_json) if spec is None else spec
    _check(tokenizer_json, spec)
    vocab: dict[str, int] = spec["model"]["vocab"]
    added: dict[int, str] = {token["id"]: token["content"] for token in spec.get("added_tokens") or []}
    names = {index: token for token, index in vocab.items()}
    ranks = _merge_ranks(spec["model"])

    proto = pb.ModelProto()
    kinds = pb.ModelProto.SentencePiece
    for index in range(max(*names, *added) + 1 if added else max(names) + 1):
        # SentencePiece looks for added tokens after it has replaced spaces.
        name = added.get(index, names.get(index, f"<unused_gap{index}>")).replace(" ", SPACE)
        piece = proto.pieces.add(piece=name, score=0.0)
        if name == UNKNOWN_SYMBOL:
            piece.type = kinds.UNKNOWN
        elif name in CONTROL_SYMBOLS:
            piece.type = kinds.CONTROL
        elif index in added or index not in names:
            piece.type = kinds.USER_DEFINED
        elif len(name) == 6 and name.startswith("<0x"):
            piece.type = kinds.BYTE
        else:
            piece.type = kinds.NORMAL
            piece.score = -float(ranks[name]) if name in ranks else _UNMERGED_SCORE - index

    trainer = proto.trainer_spec
    trainer.model_type = pb.TrainerSpec.BPE
    trainer.vocab_size = len(proto.pieces)
    trainer.byte_fallback = True
    trainer.unk_piece, trainer.unk_id = UNKNOWN_SYMBOL, vocab[UNKNOWN_SYMBOL]
    trainer.pad_piece, trainer.pad_id = "<pad>", vocab.get("<pad>", -1)
    trainer.eos_piece, trainer.eos_id = "<eos>", vocab.get("<eos>", -1)
    trainer.bos_piece, trainer.bos_id = "<bos>", vocab.get("<bos>", -1)
    normalizer = proto.normalizer_spec
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = False
    normalizer.remove_extra_whitespaces = False
    normalizer.escape_whitespaces = True
    return bytes(proto.SerializeToString())


def check_equal(tokenizer_json: Path, model: bytes, texts: Iterable[str]) -> int:
    """Compare the ids of both tokenizers (without ``<bos>``) on ``texts``; returns how many texts were compared.

    Raises ``ValueError`` at the first difference. ``texts`` must not spell control symbols.
    """
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokenizer = load_fast_tokenizer(tokenizer_json, checked=True)
    compared = 0
    for text in texts:
        ours = processor.encode(text)
        theirs = tokenizer.encode(text, add_special_tokens=False).ids
        if ours != theirs:
            at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), -1)
            raise ValueError(f"token {at} of {text[:60]!r} differs: SentencePiece {ours[at:]}, tokenizer {theirs[at:]}")
        compared += 1
    return compared
