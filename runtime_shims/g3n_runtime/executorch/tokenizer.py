"""A bundle's ``tokenizer.json`` as the stock runner reads it, and the pieces of text that the runner gives."""

from __future__ import annotations

import codecs
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from g3n_runtime.errors import EngineError
from g3n_runtime.open_file import OpenFile, address
from g3n_runtime.reading import read_json_object


class PieceDecoder:
    """Joins a runner's pieces into text; byte tokens, ``<0xE2>``, come one at a time and may be part of a character."""

    _BYTE = re.compile(r"<0x([0-9A-F]{2})>")

    def __init__(self) -> None:
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, piece: str) -> str:
        match = self._BYTE.fullmatch(piece)
        if match:
            return self._bytes.decode(bytes.fromhex(match[1]))
        return self.end() + piece

    def end(self) -> str:
        """What is left: a replacement character for an unfinished one."""
        text = self._bytes.decode(b"", final=True)
        self._bytes.reset()
        return text


class RunnerTokenizer:
    """A ``tokenizer.json`` for the stock runner.

    Raises:
        EngineError: it cannot be read.
    """

    def __init__(self, path: Path | OpenFile | None) -> None:
        self._tokenizer, self._json = _load(path)

    def count(self, text: str) -> int:
        """Tokens of ``text``, without a leading bos."""
        return len(self._tokenizer.encode(text, 0, 0))

    def piece(self, token: int) -> str:
        """What the runner gives for ``token``."""
        return str(self._tokenizer.decode(token))

    @contextmanager
    def for_runner(self) -> Iterator[Path]:
        """The file without its byte decoder, for as long as the runner loads it.

        The runner's Python binding turns each piece into a ``str`` before anybody can join them, and breaks off at a
        byte that is no character by itself. Without the decoder the piece is the token's name, which
        :class:`PieceDecoder` reads.
        """
        decoder = dict(self._json.get("decoder") or {})
        if "decoders" in decoder:
            decoder["decoders"] = [d for d in decoder["decoders"] if d.get("type") != "ByteFallback"]
        with tempfile.TemporaryDirectory(prefix="g3n-tokenizer-") as folder:
            path = Path(folder) / "tokenizer.json"
            content = {**self._json, "decoder": decoder or None}
            path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
            yield path


class Vocabulary:
    """A ``tokenizer.json`` for our own loop: text into ids as the stock runner does it, ids into pieces of text.

    Raises:
        EngineError: it cannot be read, or lists no vocabulary.
    """

    def __init__(self, path: Path | OpenFile | None) -> None:
        self._tokenizer, content = _load(path)
        try:
            self._names = {id: name for name, id in content["model"]["vocab"].items()}
            self._names |= {token["id"]: token["content"] for token in content.get("added_tokens", [])}
        except (AttributeError, KeyError, TypeError):
            raise EngineError("the tokenizer.json lists no vocabulary: copy the bundle again") from None

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, without a leading bos."""
        return list(self._tokenizer.encode(text, 0, 0))

    def decode(self, ids: list[int]) -> str:
        """The text of ``ids``."""
        pieces = PieceDecoder()
        return "".join(pieces.feed(self.name(token)) for token in ids) + pieces.end()

    def name(self, token: int) -> str:
        """What a :class:`PieceDecoder` takes."""
        return str(self._names[token]).replace("\u2581", " ")


def _load(path: Path | OpenFile | None) -> tuple[Any, dict[str, Any]]:
    """The runner's own C++ tokenizer of a ``tokenizer.json``, and the file's content."""
    from pytorch_tokenizers import CppHFTokenizer

    if path is None:
        raise EngineError("a text is read with a tokenizer.json: name it in ExecuTorchParts")
    content = read_json_object(address(path), EngineError)
    tokenizer = CppHFTokenizer()
    try:
        tokenizer.load(str(address(path)))
    except (RuntimeError, ValueError) as error:
        raise EngineError(f"{path.name} is not a tokenizer that the runner can read ({error}): copy it again") from None
    if isinstance(path, OpenFile):
        path.require_unchanged()
    return tokenizer, content
