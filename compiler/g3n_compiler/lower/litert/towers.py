"""The towers of a LiteRT bundle: each gives sections that the engine loads when the first image or sound comes."""

from __future__ import annotations

from pathlib import Path

from g3n_compiler.bundle.media import AudioMedia, ImageMedia, Media
from g3n_compiler.lower.backend import Job
from g3n_compiler.lower.litert.audio import lower_audio
from g3n_compiler.lower.litert.parts import TowerPart
from g3n_compiler.lower.litert.vision import lower_vision


def lower_towers(job: Job, folder: Path) -> list[TowerPart]:
    """Lower every tower of ``job`` into ``folder``."""
    parts: list[TowerPart] = []
    if job.vision is not None:
        parts += lower_vision(job, job.vision, folder)
    if job.audio is not None:
        parts += lower_audio(job, job.audio, folder)
    return parts


def media_of(job: Job) -> Media:
    """What the engine is told about images and sounds."""
    token, vision, audio = job.tokenizer.token, job.vision, job.audio
    return Media(
        vision and ImageMedia(job.resolutions[0], token(vision.image_id), token(vision.boi_id), token(vision.eoi_id)),
        audio and AudioMedia(token(audio.soft_id), token(audio.begin_id), token(audio.end_id)),
    )
