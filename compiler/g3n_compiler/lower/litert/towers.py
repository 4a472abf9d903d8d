"""The towers of a LiteRT bundle: sections that the engine loads with the first image or sound."""

from __future__ import annotations

from pathlib import Path

from g3n_compiler.lower.job import Job
from g3n_compiler.lower.litert.audio import OpenedAudio, lower_audio
from g3n_compiler.lower.litert.container import sections
from g3n_compiler.lower.litert.media import AudioMedia, ImageMedia, Media
from g3n_compiler.lower.litert.section import TowerSection
from g3n_compiler.lower.litert.vision import OpenedVision, lower_vision
from g3n_compiler.lower.opened import Towers


def lower_towers(job: Job, folder: Path) -> list[TowerSection]:
    """Lower every tower of ``job`` into ``folder``."""
    parts: list[TowerSection] = []
    if job.vision is not None:
        parts += lower_vision(job, job.vision, folder)
    if job.audio is not None:
        parts += lower_audio(job, job.audio, folder)
    return parts


def open_towers(path: Path) -> Towers:
    """The towers of a finished ``.litertlm``."""
    kinds = {section.kind for section in sections(path)}
    return Towers(
        OpenedVision(path) if "vision_encoder" in kinds else None,
        OpenedAudio(path) if "audio_encoder_hw" in kinds else None,
    )


def media_of(job: Job) -> Media:
    """What the engine is told about images and sounds."""
    token, image, audio = job.tokenizer.token, None, None
    if (vision := job.vision) is not None:
        image = ImageMedia(job.resolutions[0], token(vision.image_id), token(vision.boi_id), token(vision.eoi_id))
    if (config := job.audio) is not None:
        audio = AudioMedia(token(config.soft_id), token(config.begin_id), token(config.end_id))
    return Media(image, audio)
