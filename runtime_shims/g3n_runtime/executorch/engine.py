"""The stock LLM runner over an ExecuTorch bundle.

Needs ``executorch`` (which brings ``torch`` and ``pytorch_tokenizers``) and numpy only.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator
from typing import Any

from g3n_runtime.chat import Speed
from g3n_runtime.conversation import Answer, Ended, limit_of
from g3n_runtime.errors import EngineError
from g3n_runtime.executorch.model import ExecuTorchModel, ExecuTorchParts
from g3n_runtime.executorch.program import load_program, program_errors
from g3n_runtime.executorch.tokenizer import PieceDecoder, RunnerTokenizer
from g3n_runtime.open_file import address
from g3n_runtime.page_cache import drop_from_page_cache


class ExecuTorchEngine:
    """The stock ``TextLLMRunner``, unmodified, loaded with the first answer.

    The runner draws the first token of an answer greedily and the others from the top 0.9 of the probability at a
    temperature of at most 1; ``top_k``, ``top_p`` and ``seed`` of a sampler do not reach it.
    """

    @program_errors()
    def __init__(self, parts: ExecuTorchParts) -> None:
        self._parts = parts
        self._tokenizer = RunnerTokenizer(parts.tokenizer)
        program = load_program(parts.model, parts.tables)
        self.context = int(program.load_method("get_max_context_len").execute([])[0])
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

    def count(self, prompt: str) -> int:
        """Tokens of a text that already has its turn markers, the bos before it included."""
        return self._tokenizer.count(prompt) + 1

    def generate(self, prompt: str, temperature: float, max_new_tokens: int | None, room: int) -> Answer:
        """What the model says to a text that already has its turn markers and leaves ``room`` tokens for the answer.

        It is read anew: the runner's cache lacks what closes the model's turn.

        Raises:
            EngineError: the temperature is not one that the runner takes; while it answers, that it failed.
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

    def close(self) -> None:
        """Unload the runner; the next answer loads it again."""
        if self._runner is not None:
            self._runner.stop()
        self._runner = None

    def _stream(self, prompt: str, config: Any, limit: Ended) -> Generator[str, None, Ended]:
        runner = self._open()
        runner.reset()
        pieces: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        stopped, read = threading.Event(), threading.Semaphore(0)
        drawn = 0

        def on_piece(piece: str) -> None:
            nonlocal drawn
            drawn += 1
            pieces.put(piece)
            # Each piece waits until it is read: the runner ends a line on standard output when it is done.
            if not stopped.is_set():
                read.acquire()
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
                elif part := text.feed(piece):
                    yield part
                read.release()
            if part := text.end():
                yield part
        finally:
            stopped.set()
            read.release()
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
    return Speed.of_times(prompt_tokens, decode_tokens, start - begin, start, first, end)
