"""The towers of a LiteRT bundle: each gives sections that the engine loads when the first image or sound comes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from g3n_compiler.bundle.litertlm import SectionKind
from g3n_compiler.bundle.media import ImageMedia, Media
from g3n_compiler.lower.backend import Delegation, Job
from g3n_compiler.targets import Subgraph


@dataclass(frozen=True)
class TowerPart:
    """One section of a tower, lowered to ``path``."""

    subgraph: Subgraph
    kind: SectionKind
    path: Path
    signatures: tuple[str, ...]
    delegation: Delegation | None


def lower_towers(job: Job, folder: Path) -> list[TowerPart]:
    """Lower every tower of ``job`` into ``folder``."""
    parts: list[TowerPart] = []
    return parts


def media_of(job: Job) -> Media:
    """What the engine is told about images and sounds."""
    if job.vision is None:
        return Media()
    token = job.tokenizer.token
    vision = job.vision
    return Media(ImageMedia(job.resolutions[0], token(vision.image_id), token(vision.boi_id), token(vision.eoi_id)))
