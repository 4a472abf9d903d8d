"""What can differ between checkpoints' image processors: the filter and the size that pictures are resized to.

Source: ``transformers`` ``SiglipImageProcessor``, which is Gemma 3n's. Every setting that it reads is honoured,
refused, or in :data:`HARMLESS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from g3n_compiler.checkpoint.fields import Section, show
from g3n_compiler.checkpoint.remark import Remark, no_remark
from g3n_compiler.errors import WrongModel
from g3n_compiler.models.gemma3n.processor_files import IMAGE, processor_settings, require, switch
from g3n_runtime.media.image import Resample

FILTERS: dict[int, Resample] = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers for the filters."""
MAX_SIDE = 1 << 16
"""Limit for a processor's setting; what is compiled is limited by the tower's layout."""
CLASSES = ("SiglipImageProcessor", "SiglipImageProcessorFast", "SiglipImageProcessorPil")
DEFAULTS: dict[str, Any] = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_center_crop": None,
    "do_pad": None,
    "resample": 3,
    "size": {"height": 224, "width": 224},
    "default_to_square": False,
    "rescale_factor": 1 / 255,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
"""The class's own, for fields that are absent; the published model's file has them all."""
HARMLESS = {
    "do_convert_rgb": "the runtime always makes RGB of a picture, and the tower takes nothing else",
    "crop_size": "only do_center_crop, which is refused, reads it",
    "pad_size": "only do_pad, which is refused, reads it",
    "data_format": "the processor puts channels first, whatever it says",
    "input_data_format": "a picture from a file has its own",
    "device": "it says where to compute",
    "return_tensors": "it is the form of a Python result",
    "disable_grouping": "it is about the speed of batches",
    "image_seq_length": "the processor has its own of this name, which is compared",
}


@dataclass(frozen=True)
class ImageProcessor:
    """What a checkpoint's processor does to a picture."""

    resample: Resample
    side: int
    """Pixels."""


def read_image_processor(directory: Path, remark: Remark = no_remark) -> ImageProcessor | None:
    """The processor; ``None`` if the checkpoint has none.

    Raises:
        WrongModel: it does something that the runtime does not do, such as normalising.
    """
    settings = processor_settings(directory, IMAGE, DEFAULTS, remark)
    if settings is None:
        return None
    kind = settings.raw("image_processor_type")
    if kind is not None and kind not in CLASSES:
        raise settings.wrong("image_processor_type", f"Gemma 3n's, {CLASSES[0]}: take the file of the model itself")
    number = settings.raw("resample") if settings.has("resample") else DEFAULTS["resample"]
    if isinstance(number, bool) or not isinstance(number, int) or number not in FILTERS:
        raise settings.wrong("resample", f"a filter of {sorted(FILTERS)}, which are {' and '.join(FILTERS.values())}")
    for name, why in (("do_resize", "the tower takes one size"), ("do_rescale", "the tower takes pixels in 0..1")):
        require(settings, name, DEFAULTS[name], True, why)
    for name in ("do_center_crop", "do_pad"):
        require(settings, name, DEFAULTS[name], False, "the runtime shows the tower the whole picture and no border")
    require(settings, "rescale_factor", DEFAULTS["rescale_factor"], 1 / 255, "the tower takes pixels in 0..1")
    _check_not_normalised(settings)
    return ImageProcessor(FILTERS[number], _side(settings))


def load_resample(directory: Path, remark: Remark = no_remark) -> Resample:
    """The filter; ``bilinear``, as in the published model, if the checkpoint has no processor.

    Raises:
        WrongModel: the processor does something that the runtime does not do, such as normalising.
    """
    processor = read_image_processor(directory, remark)
    return "bilinear" if processor is None else processor.resample


def load_side(directory: Path, remark: Remark = no_remark) -> int | None:
    """Pixels per side that the checkpoint's processor resizes to; ``None`` if it has no processor.

    Raises:
        WrongModel: it does not make squares, or does something else that the runtime does not do.
    """
    processor = read_image_processor(directory, remark)
    return None if processor is None else processor.side


def _check_not_normalised(settings: Section) -> None:
    if not switch(settings, "do_normalize", DEFAULTS["do_normalize"]):
        return
    mean, std = (settings.raw(name) if settings.has(name) else DEFAULTS[name] for name in ("image_mean", "image_std"))
    if not _is_all(mean, 0.0) or not _is_all(std, 1.0):
        how = "" if settings.has("do_normalize") else " without do_normalize, which means true, and"
        raise WrongModel(
            f"{settings.where}{how} normalises (image_mean {_numbers(mean)}, image_std {_numbers(std)}): Gemma 3n "
            "takes pixels in 0..1; set do_normalize to false if the model was trained so, or take the published file"
        )


def _is_all(value: Any, number: float) -> bool:
    values = value if isinstance(value, list) and len(value) == 3 else [value]
    return all(isinstance(v, float | int) and not isinstance(v, bool) and v == number for v in values)


def _numbers(value: Any) -> str:
    return ", ".join(show(v) for v in value[:3]) if isinstance(value, list) else show(value)


def _side(settings: Section) -> int:
    """The side of the square that pictures become; a lone number is the shorter edge unless it is said to be both."""
    square = 'a square, such as {"height": 768, "width": 768}: the tower takes no other shape'
    value = settings.raw("size") if settings.has("size") else DEFAULTS["size"]
    if isinstance(value, int) and not isinstance(value, bool):
        if not switch(settings, "default_to_square", DEFAULTS["default_to_square"]):
            raise settings.wrong("size", f"{square}; without default_to_square, a number is the shorter edge")
        value = {"height": value, "width": value}
    if isinstance(value, list) and len(value) == 2:
        value = {"height": value[0], "width": value[1]}
    if not isinstance(value, dict):
        raise settings.wrong("size", square)
    size = Section(value, f"{settings.where}'s size")
    if strange := set(size.names()) - {"height", "width"}:
        raise size.wrong(min(strange), f"no such field, but {square}")
    height, width = (size.integer(name, 0, 1, MAX_SIDE) for name in ("height", "width"))
    if height != width:
        raise size.wrong("height", f"{width} like its width: {square}")
    return height
