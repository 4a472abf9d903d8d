"""Where a checkpoint's processors keep their settings, and which file wins.

Source: ``get_image_processor_dict``, ``get_feature_extractor_dict`` and ``ProcessorMixin`` of ``transformers``. A part
of ``processor_config.json``, as newer versions save it, goes before the whole of ``preprocessor_config.json``. In
either, a field that is absent has the class's default; one that is null is ``None``, and so false where it is a switch.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from g3n_compiler.checkpoint.fields import Section, present, read_json
from g3n_compiler.checkpoint.remark import Remark, no_remark
from g3n_compiler.errors import CheckpointError, WrongModel

NEW, OLD = "processor_config.json", "preprocessor_config.json"
IMAGE, SOUND = ("image_processor",), ("feature_extractor", "audio_processor")
"""The parts of ``processor_config.json``; of several, the first."""
CLASS = "Gemma3nProcessor"
TAKE = "take the file of the model that this one comes from"
COUNTS = {
    "image_seq_length": ("vision_soft_tokens_per_image", 256),
    "audio_seq_length": ("audio_soft_tokens_per_image", 188),
}
"""Soft tokens that the processor writes into a prompt, the config's field that must agree, and the default of both."""


def processor_settings(
    directory: Path, parts: tuple[str, ...], fields: Collection[str], remark: Remark = no_remark
) -> Section | None:
    """The settings that ``transformers`` loads; ``None`` if neither file has them.

    Args:
        parts: :data:`IMAGE` or :data:`SOUND`.
        fields: those that its class reads, for the remark on the file that is ignored.
    """
    new, old = directory / NEW, directory / OLD
    whole = Section(read_json(new) if present(new) else {}, NEW)
    part = next((name for name in parts if whole.has(name)), parts[0])
    if part not in whole:
        return Section(read_json(old), OLD) if present(old) else None
    settings = whole.section(part)
    if present(old):
        _name_the_loser(settings, old, fields, remark)
    return settings


def check_count(directory: Path, name: str, count: int) -> None:
    """Refuse a processor that writes another number of soft tokens than the model makes.

    Args:
        name: a key of :data:`COUNTS`.
        count: the config's.
    """
    new = directory / NEW
    field, default = COUNTS[name]
    whole = Section(read_json(new) if present(new) else {}, NEW)
    if whole.integer(name, default, 1, 1 << 20) != count:
        raise whole.wrong(name, f"{count}, as config.json's {field}: a prompt would not fit the soft tokens; set it")


def check_class(directory: Path) -> None:
    """Refuse a processor of another model, which ``AutoProcessor`` would load; it takes the first file that names one.

    Raises:
        WrongModel: the file, and the class that it names.
    """
    for name in (NEW, OLD, "tokenizer_config.json"):
        settings = Section(read_json(directory / name) if present(directory / name) else {}, name)
        if "processor_class" in settings:
            if settings.raw("processor_class") != CLASS:
                raise settings.wrong("processor_class", f"{CLASS}, which writes Gemma 3n's prompts; {TAKE}")
            return


def switch(settings: Section, name: str, default: bool) -> bool:
    """True or false; null is false, as it is in Python."""
    if settings.has(name) and name not in settings:
        return False
    return settings.flag(name, default)


def require(settings: Section, name: str, default: Any, expected: Any, why: str) -> None:
    """Refuse a setting that is not what this compiler's front ends do."""
    value = settings.raw(name) if settings.has(name) else default
    if isinstance(expected, bool):
        same = isinstance(value, bool | None) and bool(value) is expected
    elif isinstance(expected, float | int):
        number = isinstance(value, float | int) and not isinstance(value, bool)
        same = number and math.isclose(value, expected, rel_tol=1e-6)
    else:
        same = value == expected
    if not same:
        shown = str(expected).lower() if isinstance(expected, bool) else repr(expected)
        meaning = "" if settings.has(name) else f" (absent means {default})"
        raise settings.wrong(name, f"{shown}{meaning}: {why}; {TAKE}")


def _name_the_loser(settings: Section, old: Path, fields: Collection[str], remark: Remark) -> None:
    try:
        other = Section(read_json(old), OLD)
    except (CheckpointError, WrongModel):
        remark(f"{settings.where} is read, as transformers does; {OLD} cannot be read, and is ignored")
        return
    differing = sorted(n for n in fields if other.has(n) and other.raw(n) != settings.raw(n))
    what = f", which differs in {', '.join(differing)}" if differing else ", which says the same"
    remark(f"{settings.where} is read, as transformers does; {OLD} is ignored{what}")
