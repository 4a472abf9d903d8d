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
from g3n_runtime.media.mel import clip_hops, frame_count
from g3n_runtime.media.sound import read_sound, wav, wav_samples
from g3n_runtime.media.video import Video

PARTS = {"image": "vision", "audio": "audio"}
"""Kinds of parts of a turn, and the tower that each needs."""


@dataclass(frozen=True)
class MediaFrontEnd:
    """What a bundle takes beside text; ``image_side`` in pixels, ``None`` where it takes no images.

    The engine puts ``image_tokens`` soft tokens into a prompt for each picture, and for each sound as many as it has,
    at least ``audio_tokens``. The default numbers are those of every published Gemma 3n.
    """

    image_side: int | None = None
    resample: Resample = "bilinear"
    audio: bool = False
    image_tokens: int = 256
    audio_tokens: int = 188
    frames_per_token: int = 16
    """Mel frames of a sound for each of its soft tokens."""

    @classmethod
    def of(cls, bundle: Bundle) -> MediaFrontEnd:
        vision, audio = bundle.manifest.get("vision"), bundle.manifest.get("audio")
        front = cls(audio="audio" in bundle.manifest["model"]["modalities"])
        if audio:
            front = replace(front, audio_tokens=audio["soft_tokens"], frames_per_token=audio["frames_per_token"])
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
            parts.append(_part("audio", wav(clip_hops(read_sound(path)).reshape(-1))))
        if video.sound is not None:
            if not self.audio:
                raise no_tower("audio")
            parts.append(_part("audio", wav(clip_hops(video.sound).reshape(-1))))
        return [*parts, {"type": "text", "text": text}]

    def soft_tokens(self, turns: Sequence[Mapping[str, Any]]) -> int:
        """Tokens of the media of ``turns`` beyond their placeholders: the soft ones and the token that begins them."""
        return sum(1 + (self.image_tokens if p["type"] == "image" else self._heard(p)) for p in _media(turns))

    def _heard(self, part: Mapping[str, Any]) -> int:
        """Soft tokens of a sound."""
        frames = frame_count(wav_samples(base64.b64decode(part["blob"])))
        return max(self.audio_tokens, -(-frames // self.frames_per_token))

    @staticmethod
    def towers_of(turns: Sequence[Mapping[str, Any]]) -> frozenset[str]:
        """The towers that earlier ``turns`` need."""
        return frozenset(PARTS[part["type"]] for part in _media(turns))


def _media(turns: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    parts = (p for turn in turns if not isinstance(turn["content"], str) for p in turn["content"])
    return (part for part in parts if part["type"] in PARTS)


def _part(kind: str, content: bytes) -> dict[str, str]:
    return {"type": kind, "blob": base64.b64encode(content).decode("ascii")}
