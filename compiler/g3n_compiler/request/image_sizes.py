"""The sizes of pictures that a bundle's vision tower is compiled for."""

from __future__ import annotations

from pathlib import Path

from g3n_compiler.errors import TargetError
from g3n_compiler.models.gemma3n.image_processor import load_resample, load_side
from g3n_compiler.models.gemma3n.vision_layout import read_layout
from g3n_compiler.source import Source

DEFAULT_RESOLUTIONS = (768, 512, 256)


def processor_side(directory: Path) -> int:
    """Pixels of a side of the pictures that the checkpoint's processor makes."""
    return load_side(directory) or max(DEFAULT_RESOLUTIONS)


def choose_image_sizes(asked: tuple[int, ...] | None, source: Source) -> tuple[int, ...]:
    if "vision" not in source.modalities or source.vision is None:
        if asked:
            raise TargetError("--image-sizes was given, but no vision tower is compiled: leave it out")
        return ()
    own = processor_side(source.directory)
    # the tower was not trained on pictures larger than those its processor makes
    default = [side for side in DEFAULT_RESOLUTIONS if side <= own] or [own]
    resolutions = tuple(dict.fromkeys(asked or default))
    load_resample(source.directory)
    layout = read_layout(source.vision)
    for side in resolutions:
        layout.check_resolution(side)
    return resolutions
