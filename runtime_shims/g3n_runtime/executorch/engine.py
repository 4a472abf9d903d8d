"""Chat with an ExecuTorch bundle through the stock LLM runner.

Needs ``executorch`` (which brings ``torch`` and ``pytorch_tokenizers``) and numpy only.
"""

from __future__ import annotations

import codecs
import json
import queue
import re
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from g3n_runtime.chat import NOTHING, Attachments, Sampler, Speed
from g3n_runtime.conversation import Answer, Conversation, Ended, Prompt, Template, Turn, limit_of
from g3n_runtime.errors import EngineError
from g3n_runtime.executorch.model import ExecuTorchModel, ExecuTorchParts, load_program
from g3n_runtime.executorch_errors import program_errors
from g3n_runtime.held import HeldFile, address
from g3n_runtime.page_cache import drop_from_page_cache
from g3n_runtime.reading import read_json_object

ROLES = {"model": "executorch_model", "tables": "executorch_tables", "tokenizer": "tokenizer_json"}
"""Roles of a bundle's files."""


class ExecuTorchChat:
    """:class:`g3n_runtime.chat.ChatEngine` over the stock ``TextLLMRunner``, unmodified, loaded at the first turn.

    The runner draws the first token of an answer greedily and the others from the top 0.9 of the probability at a
    temperature of at most 1; ``top_k``, ``top_p`` and ``seed`` of a sampler do not reach it.

    Args:
        parts: files of the bundle.
        template: prompt template, ``{prompt}`` for the user's text.
    """

    @program_errors()
    def __init__(self, parts: ExecuTorchParts, template: str = "{prompt}") -> None:
        if parts.tokenizer is None:
            raise EngineError("the runner needs a tokenizer.json: name it in ExecuTorchParts")
        self.conversation: Conversation[str] = Conversation()
        self._template = Template.parse(template)
        self._parts = parts
        program = load_program(parts)
        self.context = int(program.load_method("get_max_context_len").execute([])[0])
        self._tokenizer = _Tokenizer(parts.tokenizer)
        stop = program.load_method("get_eos_ids").execute([])
        self._stop = {self._tokenizer.piece(int(i)) for i in stop}
        self._runner: Any = None

    def _open(self) -> Any:
        """The runner, loaded if it is not."""
        from executorch.extension.llm.runner import TextLLMRunner

        if self._runner is not None:
            return self._runner
        parts = self._parts
        drop_from_page_cache(parts.tables)
        with self._tokenizer.for_runner() as path:
            try:
                self._runner = TextLLMRunner(str(address(parts.model)), str(path), str(address(parts.tables)))
            except RuntimeError as error:
                raise EngineError(f"the runner refused {parts.model.name}: {error}") from None
        parts.require_unchanged()
        return self._runner

    def send(self, text: str, sampler: Sampler, max_new_tokens: int, attachments: Attachments = NOTHING) -> Answer:
        """One user turn; yields the model's text as it comes. Earlier turns stay in context.

        Raises:
            ContextFull: the turn does not fit the context.
            EngineError: the text cannot be encoded, or the runner failed.
        """
        if attachments.towers:
            missing = ", ".join(sorted(attachments.towers))
            raise EngineError(f"the bundle has no tower for {missing}: compile the checkpoint with all --modalities")
        prompt: Prompt[str] = Prompt(text)
        room = self.conversation.require_room(prompt, self.context, lambda *said: self.count(self._render(*said)))
        rendered = self._render(self.conversation.turns, prompt)
        return self.conversation.answered(prompt, self.generate(rendered, sampler.temperature, max_new_tokens, room))

    def _render(self, turns: Sequence[Turn[str]], prompt: Prompt[str]) -> str:
        return "".join(self._template.render(self.conversation.system, turns, prompt))

    def count(self, prompt: str) -> int:
        """Tokens of a text that already has its turn markers, the bos before it included."""
        return self._tokenizer.count(prompt) + 1

    def generate(self, prompt: str, temperature: float, max_new_tokens: int, room: int) -> Answer:
        """As :meth:`send` for a text that already has its turn markers and leaves ``room`` tokens for the answer.

        It is read anew: the runner's cache lacks what closes the model's turn.
        """
        from executorch.extension.llm.runner import GenerationConfig

        if not 0 <= temperature <= 1:
            raise EngineError(f"temperature {temperature} is outside 0..1, what the runner takes")
        most, limit = limit_of(max_new_tokens, room)
        config = GenerationConfig(
            echo=False,
            warming=True,  # keeps the runner from printing the text
            max_new_tokens=most,
            temperature=temperature,
            num_bos=1,
        )
        return Answer(self._stream(prompt, config, limit))

    def measure(self, prompt_tokens: int, decode_tokens: int) -> Speed:
        """See :func:`benchmark`; the conversation is forgotten, and its runner unloaded."""
        self.close()
        self.reset()
        return benchmark(self._parts, prompt_tokens, decode_tokens)

    def reset(self) -> None:
        """Forget the conversation."""
        self.conversation.reset()

    def close(self) -> None:
        if self._runner is not None:
            self._runner.stop()
        self._runner = None

    def _stream(self, prompt: str, config: Any, limit: Ended) -> Generator[str, None, Ended]:
        runner = self._open()
        runner.reset()
        pieces: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        stopped = threading.Event()
        drawn = 0

        def on_piece(piece: str) -> None:
            nonlocal drawn
            drawn += 1
            pieces.put(piece)
            if stopped.is_set():
                runner.stop()

        def run() -> None:
            try:
                runner.generate(prompt, config, on_piece, None)
            except BaseException as error:
                pieces.put(error)
            pieces.put(None)

        thread = threading.Thread(target=run, name="executorch-generate")
        thread.start()
        text, ended = PieceDecoder(), limit
        try:
            while (piece := pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise EngineError(f"the runner failed after {drawn} tokens: {piece}") from None
                if stopped.is_set() or piece in self._stop:
                    # The runner itself goes on when the very first token is a stop token.
                    stopped.set()
                    ended = Ended.END_OF_TURN
                    continue
                if part := text.feed(piece):
                    yield part
            if part := text.end():
                yield part
        finally:
            stopped.set()
            thread.join()
        return ended


def benchmark(parts: ExecuTorchParts, prompt_tokens: int, decode_tokens: int) -> Speed:
    """Call the program itself, since the runner ends at a stop token: ``prompt_tokens`` in, ``decode_tokens`` out."""
    drop_from_page_cache(parts.tables)
    begin = time.perf_counter()
    model = ExecuTorchModel(parts)
    ids = [i % model.vocab_size for i in range(2, prompt_tokens + 2)]
    start = time.perf_counter()
    token = int(model.prefill(ids).argmax())
    first = time.perf_counter()
    for position in range(prompt_tokens, prompt_tokens + decode_tokens - 1):
        token = int(model.step([token], position).argmax())
    end = time.perf_counter()
    rates = prompt_tokens / (first - start), (decode_tokens - 1) / (end - first)
    return Speed(prompt_tokens, decode_tokens, start - begin, first - start, *rates)


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


def load_tokenizer(path: Path | HeldFile) -> tuple[Any, dict[str, Any]]:
    """A ``tokenizer.json`` in the runner's own C++ tokenizer, and its content.

    Raises:
        EngineError: it cannot be read.
    """
    from pytorch_tokenizers import CppHFTokenizer

    content = read_json_object(address(path), EngineError)
    tokenizer = CppHFTokenizer()
    try:
        tokenizer.load(str(address(path)))
    except (RuntimeError, ValueError) as error:
        raise EngineError(f"{path.name} is no tokenizer that the runner reads ({error}): copy it again") from None
    if isinstance(path, HeldFile):
        path.require_unchanged()
    return tokenizer, content


class _Tokenizer:
    """A ``tokenizer.json`` as the runner's own C++ tokenizer reads it."""

    def __init__(self, path: Path | HeldFile) -> None:
        self._tokenizer, self._json = load_tokenizer(path)

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, 0, 0))

    def piece(self, token: int) -> str:
        return str(self._tokenizer.decode(token))

    def for_runner(self) -> _RunnerTokenizer:
        return _RunnerTokenizer(self._json)


class _RunnerTokenizer:
    """The tokenizer's file without its byte decoder, for as long as the runner loads it.

    The runner's Python binding turns each piece into a ``str`` before anybody can join them, and breaks off at a byte
    that is no character by itself. Without the decoder the piece is the token's name, which :class:`PieceDecoder`
    reads.
    """

    def __init__(self, tokenizer: dict[str, Any]) -> None:
        decoder = dict(tokenizer.get("decoder") or {})
        if "decoders" in decoder:
            decoder["decoders"] = [d for d in decoder["decoders"] if d.get("type") != "ByteFallback"]
        self._json = {**tokenizer, "decoder": decoder or None}
        self._folder = tempfile.TemporaryDirectory(prefix="g3n-tokenizer-")

    def __enter__(self) -> Path:
        path = Path(self._folder.name) / "tokenizer.json"
        path.write_text(json.dumps(self._json, ensure_ascii=False), encoding="utf-8")
        return path

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()
