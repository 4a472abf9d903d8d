"""Chat about pictures and sounds with an ExecuTorch bundle, by a loop of our own over ``text_decoder``.

The stock multimodal runner reads its program whole into memory, and wants the towers in it. Here a tower is a program
that is loaded with the first picture or sound, its soft tokens take the places of placeholders among the embedding
rows, and the decoder's methods are called one by one. A conversation without media is the stock text runner's.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from g3n_runtime.bundle import Bundle
from g3n_runtime.chat import NOTHING, Attachments, ChatEngine, Sampler, Speed
from g3n_runtime.conversation import Answer, Conversation, Ended, Prompt, Template, Turn, limit_of, text_of
from g3n_runtime.errors import EngineError
from g3n_runtime.executorch.audio import ExecuTorchAudio
from g3n_runtime.executorch.engine import ROLES as TEXT_ROLES
from g3n_runtime.executorch.engine import ExecuTorchChat, PieceDecoder, benchmark, load_tokenizer
from g3n_runtime.executorch.model import ExecuTorchModel, ExecuTorchParts
from g3n_runtime.executorch.vision import ExecuTorchVision
from g3n_runtime.held import HeldFile
from g3n_runtime.media.image import Resample, load_image
from g3n_runtime.media.mel import RATE
from g3n_runtime.media.sound import CLIP_SECONDS, read_blocks
from g3n_runtime.sampling import draw

ROLES = {"vision": "executorch_vision", "audio": "executorch_audio"}
"""Roles of the towers' files."""


@dataclass(frozen=True)
class TowerFiles:
    """The towers of a bundle, ``None`` for one that it lacks; pictures are brought to ``image_side`` pixels."""

    vision: Path | HeldFile | None = None
    audio: Path | HeldFile | None = None
    image_side: int | None = None
    resample: Resample = "bilinear"


@dataclass(frozen=True)
class Soft:
    """What stands in a prompt for a picture or a sound: ids, and the rows that go in instead of those of some.

    ``rows [N, hidden]`` belong to the ids from the second on; the first id is looked up.
    """

    ids: tuple[int, ...]
    rows: np.ndarray


class ExecuTorchMediaChat:
    """:class:`g3n_runtime.chat.ChatEngine` that takes pictures and sounds.

    A sound longer than a clip goes through the streaming encoder and becomes as many soft tokens as it takes. What the
    towers made stays in the conversation, so that they may be released at any time.

    Args:
        parts: files of the text model.
        template: prompt template, ``{prompt}`` for the user's text.
    """

    def __init__(self, parts: ExecuTorchParts, towers: TowerFiles, template: str) -> None:
        self._parts, self._towers, self._template = parts, towers, Template.parse(template)
        self.conversation: Conversation[Soft] = Conversation()
        self._text: ExecuTorchChat | None = None
        self._loop: RowLoop | None = None
        self._vision: ExecuTorchVision | None = None
        self._audio: ExecuTorchAudio | None = None

    def send(self, text: str, sampler: Sampler, max_new_tokens: int, attachments: Attachments = NOTHING) -> Answer:
        """One user turn; yields the model's text as it comes. Earlier turns stay in context.

        Raises:
            MediaError: a file is no image or sound, or is broken or too large.
            ContextFull: the turn does not fit the context.
            EngineError: the bundle has no tower for it.
        """
        prompt = Prompt(text, tuple(self._encode(attachments)))
        said = self.conversation
        rendered = self._render(said.turns, prompt)
        if any(isinstance(part, Soft) for part in rendered):
            loop = self._open_loop()
            room = said.require_room(prompt, loop.context, lambda *some: loop.count(self._render(*some)))
            return said.answered(prompt, loop.answer(rendered, sampler, max_new_tokens, room))
        runner = self._open_text()
        room = said.require_room(prompt, runner.context, lambda *some: runner.count(text_of(self._render(*some))))
        pieces = runner.generate(text_of(rendered), sampler.temperature, max_new_tokens, room)
        return said.answered(prompt, pieces)

    def _render(self, turns: Sequence[Turn[Soft]], prompt: Prompt[Soft]) -> list[str | Soft]:
        return self._template.render(self.conversation.system, turns, prompt)

    @property
    def loaded_towers(self) -> frozenset[str]:
        """The towers in memory."""
        loaded = {"vision": self._vision, "audio": self._audio}
        return frozenset(name for name, tower in loaded.items() if tower is not None)

    def release_towers(self) -> None:
        """Unload the towers; the next picture or sound loads its own again."""
        self._vision = self._audio = None

    def measure(self, prompt_tokens: int, decode_tokens: int) -> Speed:
        """See :func:`g3n_runtime.executorch.engine.benchmark`; forgets the conversation."""
        self.close()
        return benchmark(self._parts, prompt_tokens, decode_tokens)

    def reset(self) -> None:
        """Forget the conversation."""
        self.conversation.reset()
        self._loop = None

    def close(self) -> None:
        """Release everything."""
        self.reset()
        self.release_towers()
        self._close_text()

    def _encode(self, attachments: Attachments) -> Iterator[Soft]:
        for path in attachments.images:
            eyes, side = self._eyes()
            image = load_image(path, side, self._towers.resample).astype(np.float32) / 255
            rows = eyes.embed(image)
            begin, soft, end = eyes.ids
            yield Soft((begin, *[soft] * (len(rows) - 1), end), rows)
        for path in attachments.audio:
            ears = self._ears()
            rows = np.concatenate((_heard(ears, path), ears.end()))
            begin, soft, end = ears.ids
            yield Soft((begin, *[soft] * (len(rows) - 1), end), rows)

    def _eyes(self) -> tuple[ExecuTorchVision, int]:
        if self._towers.vision is None or self._towers.image_side is None:
            raise EngineError("the bundle has no vision tower: compile the checkpoint with --modalities text,vision")
        if self._vision is None:
            self._vision = ExecuTorchVision(self._towers.vision)
        return self._vision, self._towers.image_side

    def _ears(self) -> ExecuTorchAudio:
        if self._towers.audio is None:
            raise EngineError("the bundle has no audio tower: compile the checkpoint with --modalities text,audio")
        if self._audio is None:
            self._audio = ExecuTorchAudio(self._towers.audio)
        return self._audio

    def _open_text(self) -> ExecuTorchChat:
        """The stock runner; it and our loop would each hold the model."""
        self._loop = None
        if self._text is None:
            self._text = ExecuTorchChat(self._parts)
        return self._text

    def _open_loop(self) -> RowLoop:
        """Our loop; see :meth:`_open_text`."""
        self._close_text()
        if self._loop is None:
            self._loop = RowLoop(self._parts)
        return self._loop

    def _close_text(self) -> None:
        if self._text is not None:
            self._text.close()
            self._text = None


class RowLoop:
    """Prefill and decode over embedding rows, one conversation at a time."""

    def __init__(self, parts: ExecuTorchParts) -> None:
        if parts.tokenizer is None:
            raise EngineError("the loop needs a tokenizer.json: name it in ExecuTorchParts")
        self._model = ExecuTorchModel(parts, "text_decoder")
        self._vocabulary = Vocabulary(parts.tokenizer)
        self.context = self._model.context

    def count(self, prompt: Sequence[str | Soft]) -> int:
        """Tokens of ``prompt``, the bos before it included."""
        return len(self._ids(prompt)[0])

    def answer(self, prompt: Sequence[str | Soft], sampler: Sampler, max_new_tokens: int, room: int) -> Answer:
        """What the model says to ``prompt``, which is read anew, a bos before it, and leaves ``room`` tokens."""
        return Answer(self._answer(prompt, sampler, *limit_of(max_new_tokens, room)))

    def _answer(
        self, prompt: Sequence[str | Soft], sampler: Sampler, most: int, limit: Ended
    ) -> Generator[str, None, Ended]:
        rows = self.rows(prompt)
        generator = np.random.default_rng(sampler.seed)
        for begin in range(0, len(rows), self._model.chunk):
            logits = self._model.call_rows(rows[begin : begin + self._model.chunk], begin)[0][0, -1]
        text, position, ended = PieceDecoder(), len(rows), limit
        for last in (i == most - 1 for i in range(most)):
            token = draw(logits, sampler, generator)
            if token in self._model.stop_ids:
                ended = Ended.END_OF_TURN
                break
            if piece := text.feed(self._vocabulary.name(token)):
                yield piece
            if not last:
                logits = self._model.step([token], position)
                position += 1
        if piece := text.end():
            yield piece
        return ended

    def rows(self, prompt: Sequence[str | Soft]) -> np.ndarray:
        """Rows ``[T, width]`` float32 of ``prompt``, as ``text_decoder`` takes them."""
        ids, places = self._ids(prompt)
        embeddings = self._model.embeddings(ids)
        for at, rows in places:
            embeddings[at : at + len(rows)] = rows
        return np.concatenate((embeddings, self._model.ple(ids)), -1)

    def _ids(self, prompt: Sequence[str | Soft]) -> tuple[list[int], list[tuple[int, np.ndarray]]]:
        """Ids of ``prompt``, and the rows of its soft tokens with the place of the first."""
        ids: list[int] = [self._model.bos_id]
        places: list[tuple[int, np.ndarray]] = []
        for is_text, parts in itertools.groupby(prompt, lambda part: isinstance(part, str)):
            if is_text:
                # Together, because a token may span what comes from the template and what the user wrote.
                ids += self._vocabulary.encode("".join(str(part) for part in parts))
                continue
            for part in parts:
                assert isinstance(part, Soft)
                places.append((len(ids) + 1, part.rows))
                ids += part.ids
        return ids, places


class Vocabulary:
    """A bundle's ``tokenizer.json``: text into ids as the stock runner does it, ids into pieces of text."""

    def __init__(self, path: Path | HeldFile) -> None:
        self._tokenizer, tokenizer = load_tokenizer(path)
        try:
            self._names = {id: name for name, id in tokenizer["model"]["vocab"].items()}
            self._names |= {token["id"]: token["content"] for token in tokenizer.get("added_tokens", [])}
        except (AttributeError, KeyError, TypeError):
            raise EngineError(f"{path.name} lists no vocabulary: copy the bundle again") from None

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, without a leading bos."""
        return list(self._tokenizer.encode(text, 0, 0))

    def name(self, token: int) -> str:
        """What a :class:`PieceDecoder` takes."""
        return str(self._names[token]).replace("\u2581", " ")


def open_chat(bundle: Bundle, threads: int) -> ChatEngine:
    """The bundle with ``threads`` CPU threads: in the stock runner, which a bundle with towers leaves for media."""
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool

    _unsafe_reset_threadpool(threads)
    parts = ExecuTorchParts(*(bundle.held(TEXT_ROLES[name]) for name in ("model", "tables", "tokenizer")))
    template, vision = bundle.manifest["template"]["prompt"], bundle.manifest.get("vision")
    files = {entry["role"] for entry in bundle.manifest["files"]}
    eyes, ears = (bundle.held(role) if role in files else None for role in ROLES.values())
    towers = TowerFiles(eyes, ears)
    if eyes is None and ears is None:
        return ExecuTorchChat(parts, template)
    if eyes is not None and vision is not None:
        towers = TowerFiles(eyes, ears, vision["image_sizes"][0], vision["resample"])
    return ExecuTorchMediaChat(parts, towers, template)


def _heard(ears: ExecuTorchAudio, path: Path) -> np.ndarray:
    """Soft tokens ``[N, hidden]`` of a file: a clip's, or a stream's where it is longer than one."""
    blocks = read_blocks(path)
    held: list[np.ndarray] = []
    samples = 0
    for block in blocks:
        held.append(block)
        samples += len(block)
        if samples > CLIP_SECONDS * RATE:
            return np.stack(list(ears.tokens(itertools.chain(held, blocks))))
    return ears.clip(np.concatenate(held))
