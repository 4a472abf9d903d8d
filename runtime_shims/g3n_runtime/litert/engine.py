"""The stock LiteRT-LM engine over a ``.litertlm`` file.

Needs ``litert-lm`` only.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import litert_lm

from g3n_runtime.chat import GREEDY, ON_CPU, Placement, Sampler, Speed
from g3n_runtime.conversation import Answer, Ended, limit_of, require_room, require_whole
from g3n_runtime.errors import BundleError, EngineError
from g3n_runtime.litert.chat_template import check_engine_template
from g3n_runtime.litert.engine_files import EngineFiles
from g3n_runtime.litert.header import check_header
from g3n_runtime.litert.load_engine import compiled_context, load_engine
from g3n_runtime.litert.vulkan import require_driver
from g3n_runtime.open_file import OpenFile

WORDS = ("the", "of", "and", "to", "a", "in", "that", "is")
"""What prompts to be timed are made of: a token each in any vocabulary of English."""

MOST_LENT = 32
"""Conversations with an adapter before :attr:`LiteRtEngine.worn`; of rank 16 each keeps 22 MB for E2B."""

Message = Mapping[str, Any]
"""A turn: ``role`` (system, user, assistant) and ``content``, a text or the engine's list of parts."""


class LiteRtEngine:
    """The stock LiteRT-LM engine over a ``.litertlm`` file.

    Args:
        path: the ``.litertlm``; one that a bundle holds open is run as it was verified, and what XNNPACK packs of its
            weights is kept in the user's cache folder.
        max_tokens: prompt and answer together; by default, and at most, the context the bundle was compiled for. Fewer
            make the engine's caches shorter, which saves memory and time.
        threads: CPU threads; the engine's default where not given.
        cache_dir: where XNNPACK keeps its packed weights of a file given by its path (a file as large as the core): the
            first load writes it, later ones are faster and take less memory. Nobody checks what lies there.
        towers: the towers to load, of ``vision`` and ``audio``.
        adapter: for a file that was compiled to take LoRA adapters, the adapter's that every answer is given with, see
            :mod:`.lora`; it must not be left out then.
        placement: where text and pictures run. On the GPU the engine runs without any cache: it reads int4 weights back
            from its own as garbage, without an error (LiteRT-LM 0.15 to 0.18; ``docs/upstream``).

    Raises:
        EngineError: the engine does not load the file, or there is no driver for the GPU.
    """

    def __init__(
        self,
        path: Path | OpenFile,
        max_tokens: int | None = None,
        threads: int | None = None,
        cache_dir: Path | None = None,
        towers: Collection[str] = (),
        placement: Placement = ON_CPU,
        adapter: Path | OpenFile | None = None,
    ) -> None:
        self._adapter = adapter if adapter is None or isinstance(adapter, OpenFile) else OpenFile(adapter, EngineError)
        self._lent = 0
        if placement.needs_gpu:
            require_driver().use()
            cache_dir = None
        self._placement = placement
        litert_lm.set_min_log_severity(litert_lm.LogSeverity.ERROR)
        held = path if isinstance(path, OpenFile) else OpenFile(path, EngineError)
        check_header(held, BundleError if held is path else EngineError)
        self._files = EngineFiles(held, cached=not placement.needs_gpu) if isinstance(path, OpenFile) else None
        source = held.path if self._files is None else self._files.model
        self.context = compiled_context(source)
        check_engine_template(held)
        self.max_tokens = max_tokens or self.context
        if self.max_tokens > self.context:
            raise EngineError(
                f"{self.max_tokens} tokens were asked for, {path.name} was compiled for {self.context}: "
                "compile it with a longer context"
            )
        try:
            if self._files is None:
                self._engine = load_engine(path.name, source, self.max_tokens, threads, cache_dir, towers, placement)
                held.require_unchanged(by_path=True)
            else:
                self._engine = self._load_held(held, threads, towers)
        except BaseException:
            self._close_files()
            raise

    def _load_held(self, held: OpenFile, threads: int | None, towers: Collection[str]) -> Any:
        """The engine over an open file, with packed weights that were verified; without any where those fail."""
        files = self._files
        assert files is not None
        try:
            engine = self._load_at(held, files, threads, towers)
        except EngineError:
            if files.cache is None:
                raise
            # A full disk, for one, makes the engine fail at writing its cache.
        else:
            if files.settle():
                return engine
            engine.close()
        files.close()
        self._files = files = EngineFiles(held, cached=False)
        engine = self._load_at(held, files, threads, towers)
        files.settle()
        return engine

    def _load_at(self, held: OpenFile, files: EngineFiles, threads: int | None, towers: Collection[str]) -> Any:
        return load_engine(held.name, files.model, self.max_tokens, threads, files.cache, towers, self._placement)

    def __enter__(self) -> LiteRtEngine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the engine; it cannot be used afterwards."""
        self._engine.close()
        self._close_files()

    def _close_files(self) -> None:
        if self._files is not None:
            self._files.close()

    def encode(self, text: str) -> list[int]:
        """Ids of ``text`` under the bundle's tokenizer, without bos."""
        return list(self._engine.tokenize(text))

    def count(self, turns: Sequence[Message]) -> int:
        """Tokens of ``turns`` under the bundle's template, the bos and what opens the answer included.

        A picture or a sound counts as the one token that stands for it.
        """
        return len(self.encode(self.render(turns))) + 1

    def render(self, turns: Sequence[Message]) -> str:
        """The prompt of ``turns`` under the bundle's template, bos apart; empty where the template fails on them."""
        with self._engine.create_conversation(messages=list(turns[:-1])) as conversation:
            return str(conversation.render_message_to_string(turns[-1]))

    def constrains_calls(self) -> bool:
        """Whether the engine can hold calls of tools to their declarations: it knows few vocabularies."""
        constrained = litert_lm.ConstrainedDecodingConfig(enable=True)
        try:
            self._engine.create_conversation(constrained_decoding_config=constrained).close()
        except RuntimeError:
            return False
        return True

    def generate(
        self,
        prompt: str | Sequence[Message],
        sampler: Sampler | None = None,
        max_new_tokens: int | None = None,
        soft_tokens: int = 0,
    ) -> Answer:
        """Stream the answer to ``prompt``, a user's text or turns that end with a user's.

        Every call processes its turns afresh. LiteRT-LM 0.18.1 can keep a conversation's caches for the next turn,
        but feeds the token that ended the answer as a vector of zeros then, and leaves out the line break after it.

        Args:
            soft_tokens: what pictures and sounds take beyond what :meth:`count` counts.

        Raises:
            ContextFull: the turns leave no room for an answer.
            EngineError: a text has a NUL character, where the engine would end the prompt.
        """
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
        if not turns or turns[-1].get("role") != "user":
            raise EngineError("the last turn must be a user's: there is nothing to answer")
        for text in _texts(turns):
            require_whole(text)
        tokens = self.count(turns) + soft_tokens
        most, limit = limit_of(max_new_tokens, require_room(tokens, self.max_tokens))
        return Answer(self._stream(turns, sampler, tokens, most, limit))

    def _stream(
        self, turns: Sequence[Message], sampler: Sampler | None, tokens: int, most: int, limit: Ended
    ) -> Generator[str, None, Ended]:
        """The answer to ``turns`` of ``tokens``, at most ``most`` tokens; ``limit`` says what limits them."""
        conversation = self._engine.create_conversation(
            messages=turns[:-1],
            sampler_config=_sampler_config(sampler),
            max_output_tokens=most,
            lora_config=self._lora_config(),
        )
        with conversation:
            stream = conversation.send_message_async(turns[-1])
            pieces, is_ascii = 0, True
            for piece in _until_closed(conversation, (_text(message) for message in stream)):
                pieces, is_ascii = pieces + 1, is_ascii and piece.isascii()
                yield piece
            # The engine does not say why it ended. It counts the token that ends a turn, and gives no piece for it;
            # a piece is a token, but for those of several bytes, which are not ASCII.
            drawn = conversation.token_count - tokens
            return Ended.END_OF_TURN if drawn < most or (is_ascii and pieces < drawn) else limit

    def complete(self, text: str, sampler: Sampler | None = None, max_new_tokens: int | None = None) -> Iterator[str]:
        """Stream what follows ``text`` itself, no template applied; the engine puts bos before it."""
        require_room(len(self.encode(text)) + 1, self.max_tokens)
        session = self._engine.create_session(
            apply_prompt_template=False,
            sampler_config=_sampler_config(sampler),
            max_output_tokens=max_new_tokens,
            lora_config=self._lora_config(),
        )
        with session:
            try:
                session.run_prefill([text])
            except RuntimeError as error:
                raise EngineError(f"LiteRT-LM refused the prompt ({error})") from None
            yield from _until_closed(session, (r.texts[0] for r in session.run_decode_async() if r.texts))

    def measure(self, prompt: int, decode: int, load_seconds: float = 0.0) -> Speed:
        """Time a prompt of one word said again and again, and ``decode`` greedy tokens after it.

        The engine's own ``Benchmark`` counts a prompt twice, and so ends early where it fills half of the context.

        Raises:
            EngineError: they do not fit the context, or the model ended its answer early after every word tried.
        """
        if prompt + decode > self.max_tokens:
            raise EngineError(
                f"{prompt} and {decode} tokens are more than the {self.max_tokens} that the engine was opened with"
            )
        done = 0
        for text in self._repeated(prompt - 1):
            session = self._engine.create_session(
                apply_prompt_template=False,
                sampler_config=_sampler_config(GREEDY),
                max_output_tokens=decode,
                lora_config=self._lora_config(),
            )
            with session:
                start = time.perf_counter()
                session.run_prefill([text])
                prefilled = time.perf_counter()
                times = [time.perf_counter() for _ in session.run_decode_async()]
            if len(times) >= decode:
                rates = prompt / (prefilled - start), (len(times) - 1) / (times[-1] - times[0])
                return Speed(prompt, decode, load_seconds, times[0] - start, *rates)
            done = max(done, len(times))
        raise EngineError(f"the model ended its answer after {done} tokens of {decode}: measure fewer --decode-tokens")

    @property
    def worn(self) -> bool:
        """Whether the engine should be loaded anew: it keeps what it reads of an adapter, and the open file, for each
        conversation, also when that is over (LiteRT-LM 0.18.1).
        """
        return self._lent >= MOST_LENT

    def _lora_config(self) -> Any:
        if self._adapter is None:
            return None
        self._adapter.require_unchanged()
        self._lent += 1
        return litert_lm.LoraConfig(lora_path=str(self._adapter.address))

    def _repeated(self, count: int) -> Iterator[str]:
        """Texts of ``count`` tokens, bos apart."""
        for word in WORDS:
            text = " ".join([word] * count)
            if len(self.encode(text)) == count:
                yield text


def benchmark(
    path: Path | OpenFile,
    prompt: int,
    decode: int,
    threads: int | None = None,
    cache_dir: Path | None = None,
    placement: Placement = ON_CPU,
    max_tokens: int | None = None,
    adapter: Path | OpenFile | None = None,
) -> Speed:
    """Load the engine, time ``prompt`` tokens in and ``decode`` greedy ones out; see :meth:`LiteRtEngine.measure`."""
    begin = time.perf_counter()
    with LiteRtEngine(path, max_tokens, threads, cache_dir, placement=placement, adapter=adapter) as engine:
        return engine.measure(prompt, decode, time.perf_counter() - begin)


def _sampler_config(sampler: Sampler | None) -> Any:
    """``None`` leaves the bundle's own defaults in force."""
    if sampler is None:
        return None
    top_k = 1 if sampler.temperature == 0 else sampler.top_k
    return litert_lm.SamplerConfig(top_k=top_k, top_p=sampler.top_p, temperature=sampler.temperature, seed=sampler.seed)


def _texts(turns: Sequence[Message]) -> Iterator[str]:
    """All texts in ``turns``."""
    for turn in turns:
        content = turn.get("content", "")
        yield from [content] if isinstance(content, str) else (str(part.get("text", "")) for part in content)


def _text(message: Any) -> str:
    return "".join(part.get("text", "") for part in message.to_json().get("content", []))


def _until_closed(process: Any, pieces: Iterator[str]) -> Iterator[str]:
    """Pass the pieces on; if the caller stops early, or the engine fails, so does the engine's thread."""
    finished = False
    try:
        yield from (piece for piece in pieces if piece)
        finished = True
    except RuntimeError as error:
        raise EngineError(f"LiteRT-LM stopped while answering ({error})") from None
    finally:
        if not finished:
            process.cancel_process()
