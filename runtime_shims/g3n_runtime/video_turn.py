"""What of a video goes into a turn: as many pictures and as much sound as the bundle takes and its context holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from g3n_runtime.bundle import Bundle
from g3n_runtime.chat import VIDEO_RATE
from g3n_runtime.conversation import ANSWER_SHARE
from g3n_runtime.errors import ContextFull, EngineError, MediaError
from g3n_runtime.media.image import Resample
from g3n_runtime.media.mel import RATE as SOUND_RATE
from g3n_runtime.media.mel import frame_count
from g3n_runtime.media.sound import MAX_SECONDS
from g3n_runtime.media.video import Video, Wanted, read_video

AROUND_MEDIUM = 20
"""Tokens beside a picture's or sound's soft ones at most: its markers, line breaks and time."""
TEMPLATE = 64
"""Tokens of the turn's markers at most."""
SOUND_TOKENS = 6.25
"""Soft tokens of a second of sound."""


@dataclass(frozen=True)
class Room:
    """What a bundle takes of a video, and the tokens of its context that are left for it.

    Attributes:
        image_tokens, clip_tokens: soft tokens of a picture, and of a sound of up to a clip; 0 without the tower.
        side, resample: what pictures are brought to.
    """

    tokens: int
    context: int
    image_tokens: int
    clip_tokens: int
    side: int
    resample: Resample

    @classmethod
    def of(cls, bundle: Bundle, context: int | None, texts: Iterable[str], images: int, sounds: int) -> Room:
        """After a prompt of ``texts`` and other media, and a share for the answer.

        A text counts as a token for each of its characters, which is more than it has.

        Raises:
            EngineError: the bundle takes text only.
        """
        manifest = bundle.manifest
        seen, heard = _soft_tokens(manifest)
        if not seen and not heard:
            raise EngineError(
                f"{bundle.directory.name} takes text only, no video: compile the checkpoint with --modalities "
                "text,vision,audio"
            )
        own = min(context or int(manifest["context"]), int(manifest["context"]))
        taken = images * (seen + AROUND_MEDIUM) + sounds * (heard + AROUND_MEDIUM) + sum(map(len, texts)) + TEMPLATE
        shape = manifest.get("vision") or {"image_sizes": [1], "resample": "bilinear"}
        room = own - own // ANSWER_SHARE - taken
        return cls(room, own, seen, heard, shape["image_sizes"][0], shape["resample"])

    def frames(self, rate: float, with_sound: bool) -> int:
        """Pictures that there is room for, with the sound of as many seconds or without any."""
        count = 0
        while self._taken(count + 1, (count + 1) / rate if with_sound else 0.0) <= self.tokens:
            count += 1
        return count

    def sound_seconds(self) -> float:
        """Seconds of sound alone that there is room for; 0 if there is none for a clip."""
        if self._taken(0, 1) > self.tokens:
            return 0.0
        return min((self.tokens - AROUND_MEDIUM) / SOUND_TOKENS, float(MAX_SECONDS))

    def _taken(self, frames: int, seconds: float) -> int:
        sound = max(self.clip_tokens, int(min(seconds, MAX_SECONDS) * SOUND_TOKENS) + 1) + AROUND_MEDIUM
        return frames * (self.image_tokens + AROUND_MEDIUM) + (sound if seconds else 0)


def read_for(room: Room, path: Path, rate: float = VIDEO_RATE) -> tuple[Video, list[str]]:
    """What of the video at ``path`` goes into a turn, and notes on that for the user.

    Args:
        rate: pictures a second.

    Raises:
        MediaError: as :func:`g3n_runtime.media.video.read_video`, or the video has nothing that the bundle takes.
        ContextFull: there is no room for a picture, or for the sound of a bundle that only hears.
    """
    sees, hears = bool(room.image_tokens), bool(room.clip_tokens)
    silent = room.frames(rate, False) if sees else 0
    most = room.frames(rate, True) if sees and hears else 0
    seconds = 0.0
    if hears:
        seconds = min(most / rate, float(MAX_SECONDS)) if sees else room.sound_seconds()
    if not silent and not seconds:
        what, least = ("picture", room.image_tokens) if sees else ("sound", room.clip_tokens)
        raise ContextFull(
            f"of the context of {room.context}, {max(room.tokens, 0)} tokens are left for {path.name}, a {what} takes "
            f"{least + AROUND_MEDIUM}: shorten the prompt, or use a longer --context",
            context=room.context,
        )
    video = read_video(path, Wanted(rate, most or silent, silent, seconds, room.side, room.resample))
    if video.sound is not None and frame_count(len(video.sound)) < 1:
        video = replace(video, sound=None, has_sound=False)
    if not video.frames and video.sound is None:
        only, lacks = ("pictures", "pictures") if sees and not hears else ("sound", "sound")
        raise MediaError(f"{path.name} has no {lacks}, and of a video the bundle takes {only} only: give it another")
    return video, list(_notes(room, video, path.name, rate))


def _notes(room: Room, video: Video, name: str, rate: float) -> Iterator[str]:
    count, sound = len(video.frames), 0.0 if video.sound is None else len(video.sound) / SOUND_RATE
    parts = [f"{count} picture{'s' * (count != 1)} ({rate:g} a second)"] if count else []
    parts += [f"{sound:.1f} s of sound"] if sound else []
    yield f"{name}: {' and '.join(parts)}"
    if video.complaint:
        yield f"{name} may be damaged, and pictures or sound may be missing: its decoder says {video.complaint!r}"
    whole = f" of {video.seconds:.1f} s" if video.seconds else ""
    if video.cut_pictures:
        yield (
            f"{name} is cut: the first {count / rate:g} s{whole} are used, no more pictures fit the context of "
            f"{room.context}; a lower --video-fps reaches further"
        )
    if video.cut_sound and not (video.cut_pictures and sound >= count / rate - 0.1):
        yield f"the sound of {name} is cut after {sound:.1f} s{whole}: no more fits the context of {room.context}"
    if video.has_sound and video.sound is None:
        why = "the bundle has no audio tower" if not room.clip_tokens else "it does not fit the context"
        yield f"the sound of {name} is not used: {why}"
    if video.has_pictures and not video.frames:
        yield f"the pictures of {name} are not used: the bundle has no vision tower"


def _soft_tokens(manifest: Mapping[str, Any]) -> tuple[int, int]:
    """Of a picture and of a clip, 0 for one that the bundle does not take."""
    vision, audio = manifest.get("vision"), manifest.get("audio")
    hears = "audio" in manifest["model"]["modalities"]
    return vision["soft_tokens"] if vision else 0, (audio["soft_tokens"] if audio else 188) if hears else 0
