"""A conversation with a LiteRT bundle in the stock LiteRT-LM engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from g3n_runtime.bundle import Bundle
from g3n_runtime.chat import GREEDY, NOTHING, ON_CPU, Attachments, Placement, Sampler, Speed
from g3n_runtime.conversation import Answer, Conversation, Prompt, Turn
from g3n_runtime.errors import EngineError
from g3n_runtime.litert.engine import LiteRtEngine, Message, benchmark
from g3n_runtime.litert.lora import adapter_file
from g3n_runtime.litert.media import MediaFrontEnd
from g3n_runtime.open_file import OpenFile
from g3n_runtime.page_cache import drop_from_page_cache

PREFILL = "prefill_"
"""Begins the names of the signatures that take a chunk of a prompt; its length follows."""


class LiteRtChat:
    """A conversation with a ``.litertlm``; see :class:`g3n_runtime.chat.ChatEngine`.

    The engine is loaded at the first turn.
    """

    def __init__(
        self,
        path: Path | OpenFile,
        threads: int = 2,
        cache_dir: Path | None = None,
        system: str | None = None,
        media: MediaFrontEnd | None = None,
        placement: Placement = ON_CPU,
        context: int | None = None,
        adapter: Path | OpenFile | None = None,
    ) -> None:
        self.conversation: Conversation[Message] = Conversation(system)
        self._path, self._threads, self._cache_dir = path, threads, cache_dir
        self._placement, self._context, self._adapter = placement, context, adapter
        self._media = media or MediaFrontEnd()
        self._engine: LiteRtEngine | None = None
        self._towers: frozenset[str] = frozenset()

    def send(
        self,
        text: str,
        sampler: Sampler = GREEDY,
        max_new_tokens: int | None = None,
        attachments: Attachments = NOTHING,
    ) -> Answer:
        """Stream the answer to ``text``.

        A tower is loaded with the first image or sound, and stays until :meth:`release_towers`.
        """
        content = self._media.content(text, attachments)
        prompt: Prompt[Message] = Prompt(text, () if isinstance(content, str) else tuple(content[:-1]))
        said = self.conversation
        turns = self._messages(said.turns, prompt)
        engine = self._open(self._media.towers_of(turns))

        def count(some: Sequence[Turn[Message]], last: Prompt[Message]) -> int:
            messages = self._messages(some, last)
            return engine.count(messages) + self._media.soft_tokens(messages)

        said.require_room(prompt, engine.max_tokens, count)
        answer = engine.generate(turns, sampler, max_new_tokens, self._media.soft_tokens(turns))
        return said.answered(prompt, answer)

    def _messages(self, turns: Sequence[Turn[Message]], prompt: Prompt[Message]) -> list[Message]:
        """A conversation that ends with ``prompt`` as the engine takes it."""
        messages: list[Message] = []
        if self.conversation.system:
            messages.append({"role": "system", "content": self.conversation.system})
        for turn in turns:
            messages += [_user(turn.prompt), {"role": "assistant", "content": turn.answer}]
        return [*messages, _user(prompt)]

    @property
    def loaded_towers(self) -> frozenset[str]:
        """The towers that the engine holds now."""
        return self._towers

    def release_towers(self) -> None:
        """Unload the towers; images and sounds of earlier turns bring theirs back."""
        if self._towers:
            self.close()

    def _open(self, towers: frozenset[str]) -> LiteRtEngine:
        """The engine with at least ``towers``: it cannot add one, so it is loaded anew. No turn is lost by that."""
        wanted = towers | self._towers
        if self._engine is None or wanted != self._towers or self._engine.worn:
            self.close()
            self._engine = LiteRtEngine(
                self._path, self._context, self._threads, self._cache_dir, wanted, self._placement, self._adapter
            )
            self._towers = wanted
        return self._engine

    def measure(self, prompt_tokens: int, decode_tokens: int) -> Speed:
        """See :func:`benchmark`; the conversation's engine is unloaded and forgotten."""
        self.close()
        self.reset()
        threads, cache_dir = self._threads, self._cache_dir
        settings = threads, cache_dir, self._placement, self._context, self._adapter
        return benchmark(self._path, prompt_tokens, decode_tokens, *settings)

    def reset(self) -> None:
        """Forget the conversation, but for the system's text."""
        self.conversation.reset()

    def close(self) -> None:
        """Unload the engine; the next turn loads it again."""
        self._towers = frozenset()
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def open_chat(
    bundle: Bundle,
    threads: int,
    placement: Placement = ON_CPU,
    context: int | None = None,
    adapter: Path | None = None,
) -> LiteRtChat:
    """A conversation with ``bundle``; the user's cache folder keeps what makes the next load faster.

    Args:
        context: tokens that there is room for at least, by default the bundle's context.
        adapter: a file of ``g3n-lora`` that the engine adds to the weights.

    Raises:
        EngineError: the bundle was compiled for a shorter context, or the adapter's file is not for it.
    """
    lora = adapter_file(bundle, adapter)
    wanted = None if context is None else _whole_chunks(bundle, context)
    held = bundle.open_file("litertlm")
    drop_from_page_cache(held.address)
    media = MediaFrontEnd.of(bundle)
    return LiteRtChat(held, threads, media=media, placement=placement, context=wanted, adapter=lora)


def _whole_chunks(bundle: Bundle, context: int) -> int | None:
    """``context`` rounded up to whole chunks of the prompt; ``None`` where that is all that the bundle has.

    The engine refuses a prompt whose last chunk, with its padding, reaches past the end of a shortened cache.
    """
    own = int(bundle.manifest["context"])
    if context > own:
        raise EngineError(
            f"a context of {context} was asked for, {bundle.directory.name} was compiled for {own}: compile it with "
            f"--context {context}"
        )
    signatures = [n for part in bundle.manifest["subgraphs"] if part["name"] == "core" for n in part["signatures"]]
    lengths = [int(n.removeprefix(PREFILL)) for n in signatures if n.startswith(PREFILL)]
    longest = max(lengths, default=1)
    whole = -(-context // longest) * longest
    return whole if whole < own else None


def _user(prompt: Prompt[Message]) -> Message:
    if not prompt.media:
        return {"role": "user", "content": prompt.text}
    return {"role": "user", "content": [*prompt.media, {"type": "text", "text": prompt.text}]}
