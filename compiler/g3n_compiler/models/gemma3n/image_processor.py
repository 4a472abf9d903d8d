"""What can differ between checkpoints' image processors: the filter that resizes.

Source: ``preprocessor_config.json``, or ``processor_config.json`` from newer ``transformers``.
"""

from __future__ import annotations

import math
from pathlib import Path

from g3n_compiler.checkpoint.fields import Section, present, read_json, show
from g3n_compiler.errors import WrongModel
from g3n_runtime.media.image import Resample

FILTERS: dict[int, Resample] = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers for the filters."""
MAX_SIDE = 1 << 16
"""Limit for a processor's setting; what is compiled is limited by the tower's layout."""


def load_resample(directory: Path) -> Resample:
    """The filter; ``bilinear``, as in the published model, if the checkpoint has no processor.

    Raises:
        WrongModel: the processor does something that the runtime does not do, such as normalising.
    """
    settings = _settings(directory)
    number = settings.raw("resample") if "resample" in settings else 2
    if isinstance(number, bool) or not isinstance(number, int) or number not in FILTERS:
        raise settings.wrong("resample", f"a filter of {sorted(FILTERS)}")
    if settings.flag("do_normalize", False):
        mean, std = settings.raw("image_mean"), settings.raw("image_std")
        if mean not in (None, [0, 0, 0]) or std not in (None, [1, 1, 1]):
            raise WrongModel(
                f"{settings.where} normalises (mean {show(mean)}, std {show(std)}): Gemma 3n takes pixels in 0..1"
            )
    factor = settings.number("rescale_factor", 1 / 255, 0.0, 1.0) if "rescale_factor" in settings else 1 / 255
    if not math.isclose(factor, 1 / 255, rel_tol=1e-6):
        raise settings.wrong("rescale_factor", "1/255")
    return FILTERS[number]


def load_side(directory: Path) -> int | None:
    """Pixels per side that the checkpoint's processor resizes to; None if it has no processor or no square size."""
    settings = _settings(directory)
    if not isinstance(settings.raw("size"), dict):
        return settings.integer("size", 0, 1, MAX_SIDE) if "size" in settings else None
    size = settings.section("size")
    if "height" not in size or "width" not in size:
        return None
    height, width = (size.integer(name, 0, 1, MAX_SIDE) for name in ("height", "width"))
    return height if height == width else None


def _settings(directory: Path) -> Section:
    old, new = directory / "preprocessor_config.json", directory / "processor_config.json"
    if present(old):
        return Section(read_json(old), old.name)
    return Section(read_json(new) if present(new) else {}, new.name).section("image_processor")
