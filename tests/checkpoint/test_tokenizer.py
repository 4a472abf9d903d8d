"""The tokenizer as engines get it."""

from __future__ import annotations

from pathlib import Path

import sentencepiece

from g3n_compiler.checkpoint.sentencepiece import pad_to_vocabulary
from g3n_compiler.checkpoint.tokenizer import load_tokenizer
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
