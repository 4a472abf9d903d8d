"""Images and sounds of a user's turn as the stock LiteRT-LM engine takes them: decoded and sized here, not by it.

The engine's own decoders ignore a photo's orientation and resize otherwise than the model's processor does.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from g3n_runtime.bundle import Bundle
from g3n_runtime.chat import Attachments, no_tower
from g3n_runtime.media.image import Resample, load_image, png
from g3n_runtime.media.mel import clip_hops
from g3n_runtime.media.sound import read_clip, wav
from g3n_runtime.media.video import Video

PARTS = {"image": "vision", "audio": "audio"}
"""Kinds of parts of a turn, and the tower that each needs."""


@dataclass(frozen=True)
class MediaFrontEnd:
    """What a bundle takes beside text; ``image_side`` in pixels, ``None`` where it takes no images.

    The engine puts ``image_tokens`` or ``audio_tokens`` soft tokens into a prompt for each picture or sound, however
    short that is. The default numbers are those of every published Gemma 3n.
    """

    image_side: int | None = None
    resample: Resample = "bilinear"
    audio: bool = False
    image_tokens: int = 256
    audio_tokens: int = 188

    @classmethod
    def of(cls, bundle: Bundle) -> MediaFrontEnd:
        vision, audio = bundle.manifest.get("vision"), bundle.manifest.get("audio")
        front = cls(audio="audio" in bundle.manifest["model"]["modalities"])
        if audio:
            front = replace(front, audio_tokens=audio["soft_tokens"])
        if vision:
            side, resample = vision["image_sizes"][0], vision["resample"]
            front = replace(front, image_side=side, resample=resample, image_tokens=vision["soft_tokens"])
        return front

    def content(self, text: str, attachments: Attachments) -> str | list[dict[str, Any]]:
        """The content of a user's message: plain text, or parts.

        Raises:
            MediaError: a file is no image or sound, or is broken or too large.
            EngineError: the bundle has no tower for it.
        """
        if not attachments.towers:
            return text
        parts: list[dict[str, Any]] = []
        for path in attachments.images:
            if self.image_side is None:
                raise no_tower("vision")
            parts.append(_part("image", png(load_image(path, self.image_side, self.resample))))
        video = attachments.video or Video()
        for frame in video.frames:
            if self.image_side is None:
                raise no_tower("vision")
            image = png(frame.at(self.image_side))
            parts += [{"type": "text", "text": frame.time}, _part("image", image)]
        for path in attachments.audio:
            if not self.audio:
                raise no_tower("audio")
            parts.append(_part("audio", wav(clip_hops(read_clip(path)).reshape(-1))))
        if video.sound is not None:
            if not self.audio:
                raise no_tower("audio")
            parts.append(_part("audio", wav(clip_hops(video.sound).reshape(-1))))
        return [*parts, {"type": "text", "text": text}]

    def soft_tokens(self, turns: Sequence[Mapping[str, Any]]) -> int:
        """Tokens of the media of ``turns`` beyond their placeholders: the soft ones and the token that begins them."""
        counts = {"image": self.image_tokens + 1, "audio": self.audio_tokens + 1}
        return sum(counts[part["type"]] for part in _media(turns))

    @staticmethod
    def towers_of(turns: Sequence[Mapping[str, Any]]) -> frozenset[str]:
        """The towers that earlier ``turns`` need."""
        return frozenset(PARTS[part["type"]] for part in _media(turns))


def _media(turns: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    parts = (p for turn in turns if not isinstance(turn["content"], str) for p in turn["content"])
    return (part for part in parts if part["type"] in PARTS)


def _part(kind: str, content: bytes) -> dict[str, str]:
    return {"type": kind, "blob": base64.b64encode(content).decode("ascii")}
