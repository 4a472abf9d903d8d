"""The image processor's settings: read in both forms, and what the runtime would not do is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from g3n_compiler.errors import WrongModel
from g3n_compiler.models.gemma3n.image_processor import load_resample, load_side


def write(folder: Path, settings: dict[str, Any], nested: bool = False) -> Path:
    name = "processor_config.json" if nested else "preprocessor_config.json"
    content = {"image_processor": settings} if nested else settings
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize("nested", [False, True])
def test_the_filter_is_read(nested: bool, tmp_path: Path) -> None:
    assert load_resample(tmp_path) == "bilinear"
    settings = {"resample": 3, "do_normalize": False, "rescale_factor": 1 / 255}
    assert load_resample(write(tmp_path, settings, nested)) == "bicubic"


@pytest.mark.parametrize("nested", [False, True])
def test_the_side_is_read(nested: bool, tmp_path: Path) -> None:
    assert load_side(tmp_path) is None
    assert load_side(write(tmp_path, {"size": {"height": 256, "width": 256}}, nested)) == 256
    assert load_side(write(tmp_path, {"size": {"height": 256, "width": 512}}, nested)) is None


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"resample": 1}, "resample 1"),
        ({"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}, "normalises"),
        ({"rescale_factor": 1.0}, "rescale_factor 1.0"),
        ({"rescale_factor": []}, "rescale_factor a list"),
        ({"resample": [2]}, "resample a list"),
        ({"do_normalize": "no"}, "do_normalize 'no'"),
    ],
)
def test_what_the_runtime_does_not_do_is_refused(settings: dict[str, Any], match: str, tmp_path: Path) -> None:
    with pytest.raises(WrongModel, match=match):
        load_resample(write(tmp_path, settings))
