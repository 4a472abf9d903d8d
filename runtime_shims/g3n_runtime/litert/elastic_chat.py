"""Chat with any size of an elastic LiteRT bundle, and change it at any token: all sizes share the caches.

The stock engine runs the largest size only, so the loop is ours. Needs ``ai-edge-litert``, ``sentencepiece`` and numpy.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence

import numpy as np
import sentencepiece

from g3n_runtime.bundle import Bundle
from g3n_runtime.chat import GREEDY, NOTHING, Attachments, Device, Sampler, Speed
from g3n_runtime.conversation import Answer, Conversation, Ended, Prompt, Turn, limit_of
from g3n_runtime.errors import EngineError
from g3n_runtime.litert.elastic import ElasticText, open_elastic
from g3n_runtime.litert.size_policy import SizePolicy
from g3n_runtime.litert.speculation import SpeculativeDecoder
from g3n_runtime.machine import memory_room
from g3n_runtime.prompt import read_template
from g3n_runtime.sampling import draw

AUTO = "auto"
"""Stands for whatever size the policy chooses."""
UNFINISHED = "\ufffd"


class ElasticChat:
    """A conversation whose size may change; see :class:`g3n_runtime.chat.ChatEngine`.

    Args:
        size: to begin with; :data:`AUTO` lets a policy choose before each turn.
        draft: a smaller size that drafts for the largest, on greedy turns of that size.
        target_speed: tokens per second that the policy aims at.
        device: what runs the sizes.
    """

    def __init__(
        self,
        bundle: Bundle,
        size: str,
        threads: int = 2,
        draft: str | None = None,
        target_speed: float | None = None,
        device: Device = "cpu",
    ) -> None:
        manifest = bundle.manifest
        start = time.perf_counter()
        self.model = open_elastic(bundle, threads, device)
        self._load_seconds = time.perf_counter() - start
        self.policy = SizePolicy(manifest["sizes"], target_speed)
        self._automatic = size == AUTO
        self.size = self.policy.choose(memory_room().nbytes) if self._automatic else size
        self.model.signature(self.size, "decode")
        if draft is not None:
            self.model.signature(draft, "decode")
        self._draft = draft
        self._tokenizer = _tokenizer(bundle)
        self._template = read_template(manifest)
        self._bos, self._stop = int(manifest["tokenizer"]["bos_id"]), frozenset(manifest["tokenizer"]["stop_ids"])
        # The graph's caches may be longer than what was asked for, see g3n_compiler.lower.litert.context.
        self._context = min(self.model.context, int(manifest["context"]))
        self.conversation: Conversation[str] = Conversation()
        self._text = ElasticText(self.model)

    def use(self, size: str) -> None:
        """Go on in ``size``, from the next token on; :data:`AUTO` leaves the choice to the policy.

        Raises:
            EngineError: the bundle has no such size.
        """
        self._automatic = size == AUTO
        if not self._automatic:
            self.model.signature(size, "decode")
            self.size = size

    def send(
        self,
        text: str,
        sampler: Sampler = GREEDY,
        max_new_tokens: int | None = None,
        attachments: Attachments = NOTHING,
    ) -> Answer:
        """One user turn; yields the model's text as it comes. What the caches hold of earlier turns is not read anew.

        Raises:
            ContextFull: the turn does not fit the context.
            EngineError: the turn has attachments.
        """
        if attachments.towers:
            raise EngineError("the loop over sizes takes text only: leave --size out to use the towers")
        if self._automatic:
            self.size = self.policy.choose(memory_room().nbytes)
        prompt: Prompt[str] = Prompt(text)
        room = self.conversation.require_room(prompt, self._context, lambda *said: len(self._ids(*said)))
        pieces = self._answer(self._ids(self.conversation.turns, prompt), sampler, *limit_of(max_new_tokens, room))
        return self.conversation.answered(prompt, Answer(pieces))

    def _ids(self, turns: Sequence[Turn[str]], prompt: Prompt[str]) -> list[int]:
        text = "".join(self._template.prompt(self.conversation.system, turns, prompt))
        return [self._bos, *self._tokenizer.encode(text)]

    def _answer(self, ids: Sequence[int], sampler: Sampler, most: int, limit: Ended) -> Generator[str, None, Ended]:
        """What the model says after ``ids``, at most ``most`` tokens; ``limit`` says what limits them."""
        self._read(ids[:-1])
        count = 0

        def counted() -> Iterator[int]:
            nonlocal count
            for token in self._tokens(ids[-1], sampler, most):
                count += 1
                yield token

        try:
            yield from self._pieces(counted())
        except KeyboardInterrupt:
            # It may come between a step and its bookkeeping.
            self._text = ElasticText(self.model)
            raise
        return Ended.END_OF_TURN if count < most else limit

    def measure(self, prompt_tokens: int, decode_tokens: int) -> Speed:
        """Run ``prompt_tokens`` and generate ``decode_tokens`` in the size in use; forgets the conversation."""
        self.reset()
        ids = [2 + i % 1000 for i in range(prompt_tokens)]
        start = time.perf_counter()
        self._text.prefill(ids[:-1], self.size)
        token = int(self._text.decode(ids[-1], self.size).argmax())
        first = time.perf_counter()
        for _ in range(decode_tokens - 1):
            token = int(self._text.decode(token, self.size).argmax())
        end = time.perf_counter()
        self.reset()
        speed = Speed.of_times(prompt_tokens, decode_tokens, self._load_seconds, start, first, end)
        self.policy.observe(self.size, speed.decode_per_second)
        return speed

    def reset(self) -> None:
        """Forget the conversation."""
        self.conversation.reset()
        self._text = ElasticText(self.model)

    def close(self) -> None:
        """Release the engine, whose memory is its buffers' too; the chat cannot be used afterwards."""
        del self._text
        self.model.close()

    def _read(self, ids: Sequence[int]) -> None:
        """Bring the text to ``ids``: only what is new, if it begins with what the caches hold."""
        if list(ids[: len(self._text.ids)]) != self._text.ids:
            self._text = ElasticText(self.model)
        self._text.prefill(ids[len(self._text.ids) :], self.size)

    def _tokens(self, token: int, sampler: Sampler, count: int) -> Iterator[int]:
        generator = np.random.default_rng(sampler.seed)
        while count > 0:
            if self._draft is not None and sampler.temperature == 0 and self.size == self.model.sizes[0]:
                yield from SpeculativeDecoder(self._text, self._draft).generate(token, count, self._stop)
                return
            start = time.perf_counter()
            logits = self._text.decode(token, self.size)
            self.policy.observe(self.size, 1 / (time.perf_counter() - start))
            token = draw(logits, sampler, generator)
            if token in self._stop:
                return
            yield token
            count -= 1

    def _pieces(self, tokens: Iterator[int]) -> Iterator[str]:
        """The text of ``tokens``, character by whole character."""
        ids: list[int] = []
        said = ""
        for token in tokens:
            ids.append(token)
            text = str(self._tokenizer.decode(ids))
            if not text.endswith(UNFINISHED) and text != said:
                yield text[len(said) :]
                said = text
        if (text := str(self._tokenizer.decode(ids)) if ids else "") != said:
            yield text[len(said) :]


def _tokenizer(bundle: Bundle) -> sentencepiece.SentencePieceProcessor:
    begin, end = bundle.manifest["elastic"]["tokenizer"]
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=bundle.open_file("litertlm").read(begin, end))
    except (RuntimeError, ValueError) as error:
        raise EngineError(f"the tokenizer of {bundle.directory.name} cannot be read ({error}): copy it again") from None
