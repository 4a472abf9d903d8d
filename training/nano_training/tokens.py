"""Documents as token ids."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from nano_training.corpus import Document


def encode_documents(documents: Sequence[Document], tokenizer_json: Path) -> list[Tensor]:
    """One int64 vector per document, ``<bos>`` first."""
    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    return [torch.tensor(e.ids) for e in tokenizer.encode_batch([d.text for d in documents])]


def encode_stream(documents: Sequence[Document], tokenizer_json: Path) -> Tensor:
    """All documents concatenated, each with its ``<bos>``: one int64 vector."""
    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    encodings = tokenizer.encode_batch_fast([d.text for d in documents])
    return torch.tensor(list(chain.from_iterable(e.ids for e in encodings)))
