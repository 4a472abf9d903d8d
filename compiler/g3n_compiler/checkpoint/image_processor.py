"""How the checkpoint's image processor makes pixels, as far as it may differ: the filter that it resizes with.

Source: ``preprocessor_config.json``, or ``processor_config.json`` of newer ``transformers``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from g3n_compiler.checkpoint.config import read_json
from g3n_compiler.errors import WrongModel
from g3n_runtime.image import Resample

FILTERS: dict[int, Resample] = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the filters."""


def load_resample(directory: Path) -> Resample:
    """The filter; ``bilinear``, the published model's, where the checkpoint has no processor.

    Raises:
        WrongModel: the processor does something that the runtime does not, such as normalising.
    """
    settings = _settings(directory)
    number = settings.get("resample", 2)
    if number not in FILTERS:
        raise WrongModel(f"the image processor resizes with filter {number!r}, expected one of {sorted(FILTERS)}")
    if settings.get("do_normalize"):
        mean, std = settings.get("image_mean"), settings.get("image_std")
        if mean not in (None, [0, 0, 0]) or std not in (None, [1, 1, 1]):
            raise WrongModel(f"the image processor normalises (mean {mean}, std {std}): Gemma 3n takes pixels in 0..1")
    if not math.isclose(float(settings.get("rescale_factor", 1 / 255)), 1 / 255, rel_tol=1e-6):
        raise WrongModel(f"the image processor rescales by {settings['rescale_factor']}, expected 1/255")
    return FILTERS[number]


def load_side(directory: Path) -> int | None:
    """Pixels a side that the checkpoint's processor resizes to; None where it has no processor or no square size."""
    size = _settings(directory).get("size")
    if not isinstance(size, dict) or size.get("height") != size.get("width"):
        return None
    side = size.get("height")
    return side if isinstance(side, int) else None


def _settings(directory: Path) -> dict[str, Any]:
    old, new = directory / "preprocessor_config.json", directory / "processor_config.json"
    if old.exists():
        return read_json(old)
    nested = read_json(new).get("image_processor") if new.exists() else None
    return nested if isinstance(nested, dict) else {}
