"""The towers of a LiteRT bundle: sections that the engine loads with the first image or sound."""

from __future__ import annotations

from pathlib import Path

from g3n_compiler.lower.job import Job
from g3n_compiler.lower.litert.audio import OpenedAudio, lower_audio
from g3n_compiler.lower.litert.container import SectionKind, sections
from g3n_compiler.lower.litert.media import AudioMedia, ImageMedia, Media
from g3n_compiler.lower.litert.section import TowerSection
from g3n_compiler.lower.litert.vision import OpenedVision, lower_vision


def lower_towers(job: Job, folder: Path) -> list[TowerSection]:
    """Lower every tower of ``job`` into ``folder``."""
    parts: list[TowerSection] = []
    if job.vision is not None:
        parts += lower_vision(job, job.vision, folder)
    if job.audio is not None:
        parts += lower_audio(job, job.audio, folder)
    return parts


def open_vision(path: Path) -> OpenedVision | None:
    """The vision tower of a finished ``.litertlm``."""
    return OpenedVision(path) if _has(path, "vision_encoder") else None


def open_audio(path: Path) -> OpenedAudio | None:
    """The audio tower of a finished ``.litertlm``."""
    return OpenedAudio(path) if _has(path, "audio_encoder_hw") else None


def _has(path: Path, kind: SectionKind) -> bool:
    return any(section.kind == kind for section in sections(path))


def media_of(job: Job) -> Media:
    """What the engine is told about images and sounds."""
    token, image, audio = job.tokenizer.token, None, None
    if (vision := job.vision) is not None:
        image = ImageMedia(job.resolutions[0], token(vision.image_id), token(vision.boi_id), token(vision.eoi_id))
    if (config := job.audio) is not None:
        audio = AudioMedia(token(config.soft_id), token(config.begin_id), token(config.end_id))
    return Media(image, audio)
