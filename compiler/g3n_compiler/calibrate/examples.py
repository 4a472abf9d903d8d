"""Examples to calibrate with: one JSON object per line, turned into the rows that the decoder reads.

    {"prompt": "What is a river?", "answer": "A large natural stream of water."}
    {"prompt": "What is in the picture?", "images": ["boat.jpg"], "answer": "A boat on a lake."}
    {"prompt": "Transcribe.", "audio": ["note.wav"], "answer": "Buy bread."}
    {"text": "Plain text, not a chat."}

Pictures and sounds are beside the file or in folders below it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from g3n_compiler.checkpoint.tokenizer import TextTokenizer
from g3n_compiler.errors import ExampleError
from g3n_compiler.models.embedding_tables import EmbeddingTables
from g3n_compiler.models.gemma3n.image_processor import load_resample, load_side
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.source import Source
from g3n_compiler.verify.audio import AudioReference
from g3n_compiler.verify.vision import VisionReference
from g3n_runtime.bundle import inside
from g3n_runtime.media.image import load_image
from g3n_runtime.media.sound import read_clip
from g3n_runtime.reading import open_regular, parse_json, read_text

MAX_BYTES = 64 << 20
"""For the file of examples."""
MAX_LINE_BYTES = 1 << 20
"""For one example: ten times the longest text that fits the longest context."""
MAX_EXAMPLES = 100_000
MAX_MEDIA = 128
"""Pictures, and as many sounds, in one example: as many as the longest context holds."""
FIELDS = {"prompt": str, "answer": str, "text": str, "images": list, "audio": list}


@dataclass(frozen=True)
class Example:
    """One line of the file, with media as paths."""

    prompt: str
    answer: str
    images: tuple[Path, ...] = ()
    audio: tuple[Path, ...] = ()
    plain: bool = False
    """Text without turns, all of it in ``answer``."""


@dataclass(frozen=True)
class Rows:
    """An example as the decoder reads it: ``embeddings [T, hidden]`` and ``ple [T, layers, ple_dim]``, both scaled.

    The positions from ``answered`` on predict the model's own words.
    """

    embeddings: Tensor
    ple: Tensor
    answered: int
    ids: tuple[int, ...]
    """Of the rows; those of media stand for soft tokens."""

    def __len__(self) -> int:
        return len(self.embeddings)


def load_examples(path: Path) -> list[Example]:
    """The examples in a file.

    Raises:
        ExampleError: the file is missing, too large or empty, or a line is not an example; the message says which.
        UnsafePath: a picture or a sound is outside the file's folder.
    """
    lines = read_text(path, MAX_BYTES, ExampleError).split("\n")  # a JSON string may contain other line separators
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if len(numbered) > MAX_EXAMPLES:
        raise ExampleError(
            f"{path} has {len(numbered)} examples, but at most {MAX_EXAMPLES} are read: a few hundred are enough"
        )
    found = [_example(path, number, line) for number, line in numbered]
    if not found:
        raise ExampleError(f"{path} holds no examples: expected one JSON object per line")
    return found


def examples_sha256(path: Path, examples: Sequence[Example]) -> str:
    """One hash over the file and every file that it names."""
    files = sorted({path, *(file for e in examples for file in (*e.images, *e.audio))})
    hashes = [(file.relative_to(path.parent).as_posix(), _sha256(file)) for file in files]
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


class Reading:
    """Turns examples into rows; a tower is opened with the first picture or sound."""

    def __init__(self, source: Source, tokenizer: TextTokenizer, recipe: Recipe) -> None:
        self._checkpoint, self._tokenizer, self._loaded = source, tokenizer, tokenizer.loaded()
        self._tables = EmbeddingTables(source.text, source.read, recipe)
        self._vision: VisionReference | None = None
        self._audio: AudioReference | None = None

    def rows(self, example: Example) -> Rows:
        """The rows of ``example``, without its last token, after which nothing is predicted.

        Raises:
            MediaError: a picture or a sound is damaged.
            ExampleError: the checkpoint has no tower for it, or the example is too long for the model.
        """
        ids, places = [self._tokenizer.bos_id], list[tuple[int, np.ndarray]]()
        media = self._media(example)
        for piece, kind in self._pieces(example):
            ids += self._loaded.encode(piece)
            if kind is not None:
                opening, soft, closing, rows = next(media)
                places.append((len(ids) + 1, rows))
                ids += [opening, *[soft] * (len(rows) - 1), closing]
        answered = len(ids) - 1
        ids += self._loaded.encode(example.answer) + self._end(example)
        if len(ids) > self._checkpoint.text.max_context:
            raise ExampleError(f"an example of {len(ids)} tokens is longer than the model's context: shorten it")
        embeddings = self._tables.embeddings(ids[:-1])[0]
        for at, rows in places:
            embeddings[at : at + len(rows)] = torch.from_numpy(rows)
        return Rows(embeddings, self._tables.ple(ids[:-1])[0], answered, tuple(ids[:-1]))

    def _pieces(self, example: Example) -> list[tuple[str, str | None]]:
        """The prompt's texts, each with the type of the medium that follows."""
        template = self._tokenizer.template
        media = [*("image" for _ in example.images), *("audio" for _ in example.audio)]
        if example.plain:
            return template.split("".join(template.placeholders[kind] for kind in media) + example.prompt)
        parts = [*({"type": kind} for kind in media), {"type": "text", "text": example.prompt}]
        text = template.render([{"role": "user", "content": parts if media else example.prompt}], ExampleError)
        return template.split(text.removeprefix(template.bos))

    def _end(self, example: Example) -> list[int]:
        """The token that ends the answer, if the template writes one."""
        end = self._tokenizer.turn_end
        return [] if example.plain or end is None else [end]

    def _media(self, example: Example) -> Iterator[tuple[int, int, int, np.ndarray]]:
        """The ids that open, fill and close each picture and sound, and the rows from the second id on."""
        directory, vision, audio = self._checkpoint.directory, self._checkpoint.vision, self._checkpoint.audio
        for path in example.images:
            if vision is None:
                raise ExampleError(f"{path.name} is a picture, but the checkpoint has no vision tower")
            self._vision = self._vision or VisionReference(self._checkpoint, vision)
            side = load_side(directory) or 768
            pixels = load_image(path, side, load_resample(directory)).astype(np.float32) / 255
            yield vision.boi_id, vision.image_id, vision.eoi_id, self._vision.embed(pixels)
        for path in example.audio:
            if audio is None:
                raise ExampleError(f"{path.name} is a sound, but the checkpoint has no audio tower")
            self._audio = self._audio or AudioReference(self._checkpoint, audio)
            end = self._audio.reader.hard_token_row(audio.end_id).numpy()[None]
            rows = np.concatenate((self._audio.clip(read_clip(path)), end))
            yield audio.begin_id, audio.soft_id, audio.end_id, rows


def _example(path: Path, number: int, line: str) -> Example:
    def wrong(why: str) -> ExampleError:
        return ExampleError(f"{path.name}, line {number}: {why}")

    if len(line) > MAX_LINE_BYTES:
        raise wrong(f"{len(line)} characters, but at most {MAX_LINE_BYTES} are read: shorten it")
    raw = parse_json(line, f"{path.name}, line {number}", ExampleError)
    if not isinstance(raw, dict):
        raise wrong("expected a JSON object")
    for name, value in raw.items():
        if name not in FIELDS:
            raise wrong(f"unknown field {name[:40]!r}, expected some of {', '.join(FIELDS)}")
        strings = value if isinstance(value, list) else [value]
        if not isinstance(value, FIELDS[name]) or not all(isinstance(s, str) for s in strings):
            raise wrong(
                f"{name} is {repr(value)[:80]}, expected {'strings in a list' if FIELDS[name] is list else 'a string'}"
            )
        if isinstance(value, list) and len(value) > MAX_MEDIA:
            raise wrong(f"{name} has {len(value)} files, but at most {MAX_MEDIA} are read")
    if "text" in raw:
        if len(raw) > 1:
            raise wrong("text must be the only field: a chat has prompt and answer")
        if not raw["text"]:
            raise wrong("text is empty")
        return Example("", raw["text"], plain=True)
    if "prompt" not in raw or "answer" not in raw:
        raise wrong("expected a prompt and an answer, or a text")
    images, audio = (tuple(_file(path, name, wrong) for name in raw.get(kind, ())) for kind in ("images", "audio"))
    return Example(raw["prompt"], raw["answer"], images, audio)


def _file(examples: Path, name: str, wrong: Callable[[str], ExampleError]) -> Path:
    try:
        file = inside(examples.parent, name)
        if file.is_file():
            return file
    except (OSError, ValueError, RuntimeError) as error:  # the name is too long, or links form a circle
        raise wrong(f"{name[:80]!r} is not a file name ({error.__class__.__name__})") from None
    raise wrong(f"there is no file {name[:200]} beside it")


def _sha256(file: Path) -> str:
    with open_regular(file, ExampleError) as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
