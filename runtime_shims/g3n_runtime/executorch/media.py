"""Pictures and sounds of a user's turn as the row loop takes them: the soft tokens that a tower makes of each.

The stock multimodal runner reads its program whole into memory, and wants the towers in it. Here a tower is a program
that is loaded with the first picture or sound.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from g3n_runtime.bundle import Bundle
from g3n_runtime.chat import Attachments, no_tower
from g3n_runtime.conversation import Caption
from g3n_runtime.executorch.audio import ExecuTorchAudio
from g3n_runtime.executorch.roles import ROLES
from g3n_runtime.executorch.vision import ExecuTorchVision
from g3n_runtime.media.image import Resample, load_image
from g3n_runtime.media.mel import RATE
from g3n_runtime.media.sound import CLIP_SECONDS, read_blocks
from g3n_runtime.media.video import Video
from g3n_runtime.open_file import OpenFile


@dataclass(frozen=True)
class TowerFiles:
    """The towers of a bundle, ``None`` for one that it lacks; pictures are brought to ``image_side`` pixels."""

    vision: Path | OpenFile | None = None
    audio: Path | OpenFile | None = None
    image_side: int | None = None
    resample: Resample = "bilinear"


@dataclass(frozen=True)
class SoftTokens:
    """What stands in a prompt for a picture or a sound: ids, and the rows that go in instead of those of some.

    ``rows [N, hidden]`` belong to the ids from the second on; the first id is looked up.
    """

    kind: str
    """``image`` or ``audio``, as a chat template's parts are called."""
    ids: tuple[int, ...]
    rows: np.ndarray


class Towers:
    """The towers of a bundle, each loaded with the first picture or sound that needs it."""

    def __init__(self, files: TowerFiles) -> None:
        self._files = files
        self._vision: ExecuTorchVision | None = None
        self._audio: ExecuTorchAudio | None = None

    @property
    def loaded(self) -> frozenset[str]:
        """The towers in memory."""
        loaded = {"vision": self._vision, "audio": self._audio}
        return frozenset(name for name, tower in loaded.items() if tower is not None)

    def release(self) -> None:
        """Unload them; the next picture or sound loads its own again."""
        self._vision = self._audio = None

    def encode(self, attachments: Attachments) -> Iterator[SoftTokens | Caption]:
        """What stands in the prompt for each; a sound longer than a clip goes through the streaming encoder.

        Raises:
            MediaError: a file is no image or sound, or is broken or too large.
            EngineError: the bundle has no tower for it.
        """
        for path in attachments.images:
            vision, side = self._open_vision()
            yield _seen(vision, load_image(path, side, self._files.resample))
        video = attachments.video or Video()
        for frame in video.frames:
            vision, side = self._open_vision()
            yield Caption(frame.time)
            yield _seen(vision, frame.at(side))
        sounds = [read_blocks(path) for path in attachments.audio]
        for blocks in sounds if video.sound is None else [*sounds, [video.sound]]:
            audio = self._open_audio()
            yield _soft_tokens("audio", audio.ids, np.concatenate((_heard(audio, blocks), audio.end())))

    def _open_vision(self) -> tuple[ExecuTorchVision, int]:
        if self._files.vision is None or self._files.image_side is None:
            raise no_tower("vision")
        if self._vision is None:
            self._vision = ExecuTorchVision(self._files.vision)
        return self._vision, self._files.image_side

    def _open_audio(self) -> ExecuTorchAudio:
        if self._files.audio is None:
            raise no_tower("audio")
        if self._audio is None:
            self._audio = ExecuTorchAudio(self._files.audio)
        return self._audio


def tower_files(bundle: Bundle) -> TowerFiles:
    """The towers that ``bundle`` has."""
    roles = {entry["role"] for entry in bundle.manifest["files"]}
    vision, audio = (bundle.open_file(ROLES[n]) if ROLES[n] in roles else None for n in ("vision", "audio"))
    shape = bundle.manifest.get("vision")
    if vision is None or shape is None:
        return TowerFiles(vision, audio)
    return TowerFiles(vision, audio, shape["image_sizes"][0], shape["resample"])


def _soft_tokens(kind: str, ids: tuple[int, int, int], rows: np.ndarray) -> SoftTokens:
    begin, soft, end = ids
    return SoftTokens(kind, (begin, *[soft] * (len(rows) - 1), end), rows)


def _seen(tower: ExecuTorchVision, image: np.ndarray) -> SoftTokens:
    return _soft_tokens("image", tower.ids, tower.embed(image.astype(np.float32) / 255))


def _heard(tower: ExecuTorchAudio, sound: Iterable[np.ndarray]) -> np.ndarray:
    """Soft tokens ``[N, hidden]`` of a sound in pieces: a clip's, or a stream's where it is longer than one."""
    blocks = iter(sound)
    held: list[np.ndarray] = []
    samples = 0
    for block in blocks:
        held.append(block)
        samples += len(block)
        if samples > CLIP_SECONDS * RATE:
            return np.stack(list(tower.tokens(itertools.chain(held, blocks))))
    return tower.clip(np.concatenate(held))
