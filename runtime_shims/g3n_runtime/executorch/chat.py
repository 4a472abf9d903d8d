"""A conversation with an ExecuTorch bundle: in the stock runner, and with media in our own loop."""

from __future__ import annotations

from collections.abc import Sequence

from g3n_runtime.bundle import Bundle
from g3n_runtime.chat import GREEDY, NOTHING, Attachments, Sampler, Speed
from g3n_runtime.conversation import Answer, Conversation, Prompt, Turn, text_of
from g3n_runtime.executorch.engine import ExecuTorchEngine, benchmark
from g3n_runtime.executorch.media import SoftTokens, TowerFiles, Towers, tower_files
from g3n_runtime.executorch.model import ExecuTorchParts
from g3n_runtime.executorch.roles import ROLES
from g3n_runtime.executorch.row_loop import RowLoop
from g3n_runtime.prompt import ChatTemplate, read_template


class ExecuTorchChat:
    """See :class:`g3n_runtime.chat.ChatEngine`. A conversation without media is the stock runner's.

    What the towers made stays in the conversation, so that they may be released at any time.

    Args:
        parts: files of the text model.
        template: the checkpoint's chat template.
        towers: those that the bundle has.
    """

    def __init__(self, parts: ExecuTorchParts, template: ChatTemplate, towers: TowerFiles | None = None) -> None:
        self._parts, self._template, self._towers = parts, template, Towers(towers or TowerFiles())
        self.conversation: Conversation[SoftTokens] = Conversation()
        self._engine: ExecuTorchEngine | None = None
        self._loop: RowLoop | None = None

    def send(
        self,
        text: str,
        sampler: Sampler = GREEDY,
        max_new_tokens: int | None = None,
        attachments: Attachments = NOTHING,
    ) -> Answer:
        """One user turn; yields the model's text as it comes. Earlier turns stay in context.

        Raises:
            MediaError: a file is no image or sound, or is broken or too large.
            ContextFull: the turn does not fit the context.
            EngineError: the bundle has no tower for it, or the engine refused it.
        """
        prompt = Prompt(text, tuple(self._towers.encode(attachments)))
        said = self.conversation
        rendered = self._render(said.turns, prompt)
        if any(isinstance(part, SoftTokens) for part in rendered):
            loop = self._open_loop()
            room = said.require_room(prompt, loop.context, lambda *some: loop.count(self._render(*some)))
            return said.answered(prompt, loop.answer(rendered, sampler, max_new_tokens, room))
        engine = self._open_engine()
        room = said.require_room(prompt, engine.context, lambda *some: engine.count(text_of(self._render(*some))))
        pieces = engine.generate(text_of(rendered), sampler.temperature, max_new_tokens, room)
        return said.answered(prompt, pieces)

    def _render(self, turns: Sequence[Turn[SoftTokens]], prompt: Prompt[SoftTokens]) -> list[str | SoftTokens]:
        return self._template.prompt(self.conversation.system, turns, prompt, lambda soft: soft.kind)

    @property
    def loaded_towers(self) -> frozenset[str]:
        """The towers in memory."""
        return self._towers.loaded

    def release_towers(self) -> None:
        """Unload the towers; the next picture or sound loads its own again."""
        self._towers.release()

    def measure(self, prompt_tokens: int, decode_tokens: int) -> Speed:
        """See :func:`g3n_runtime.executorch.engine.benchmark`; forgets the conversation, and unloads its engine."""
        self.close()
        return benchmark(self._parts, prompt_tokens, decode_tokens)

    def reset(self) -> None:
        """Forget the conversation, but for the system's text."""
        self.conversation.reset()
        self._loop = None

    def close(self) -> None:
        """Release everything."""
        self.reset()
        self.release_towers()
        self._close_engine()

    def _open_engine(self) -> ExecuTorchEngine:
        """The stock runner; it and our loop would each hold the model."""
        self._loop = None
        if self._engine is None:
            self._engine = ExecuTorchEngine(self._parts)
        return self._engine

    def _open_loop(self) -> RowLoop:
        """Our loop; see :meth:`_open_engine`."""
        self._close_engine()
        if self._loop is None:
            self._loop = RowLoop(self._parts)
        return self._loop

    def _close_engine(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def open_chat(bundle: Bundle, threads: int) -> ExecuTorchChat:
    """A conversation with ``bundle`` on ``threads`` CPU threads."""
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool

    _unsafe_reset_threadpool(threads)
    parts = ExecuTorchParts(*(bundle.open_file(ROLES[name]) for name in ("model", "tables", "tokenizer")))
    return ExecuTorchChat(parts, read_template(bundle.manifest), tower_files(bundle))
