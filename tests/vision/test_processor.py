"""The image processor's settings: where ``AutoImageProcessor`` finds them, honoured as it does, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from PIL import Image

from g3n_compiler.errors import WrongModel
from g3n_compiler.models.gemma3n.image_processor import (
    DEFAULTS,
    FILTERS,
    HARMLESS,
    ImageProcessor,
    load_resample,
    load_side,
    read_image_processor,
)

PLAIN: dict[str, Any] = {
    "image_processor_type": "SiglipImageProcessor",
    "do_normalize": False,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"height": 256, "width": 256},
}
PUBLISHED: dict[str, Any] = {
    "crop_size": None, "data_format": "channels_first", "default_to_square": False, "device": None,
    "disable_grouping": None, "dither": 0.0, "do_center_crop": None, "do_convert_rgb": None, "do_normalize": None,
    "do_rescale": True, "do_resize": True, "feature_extractor_type": "Gemma3nAudioFeatureExtractor",
    "feature_size": 128, "fft_length": 1024, "fft_overdrive": True, "frame_length": 512, "hop_length": 160,
    "image_mean": None, "image_processor_type": "SiglipImageProcessorFast", "image_seq_length": 256, "image_std": None,
    "input_data_format": None, "input_scale_factor": 1.0, "max_frequency": 7600.0, "mel_floor": 1e-05,
    "min_frequency": 125.0, "padding_side": "right", "padding_value": 0.0, "per_bin_mean": None,
    "per_bin_stddev": None, "preemphasis": 0.97, "preemphasis_htk_flavor": True,
    "processor_class": "Gemma3nProcessor", "resample": 2, "rescale_factor": 0.00392156862745098,
    "return_attention_mask": False, "return_tensors": None, "sampling_rate": 16000,
    "size": {"height": 768, "width": 768},
}  # fmt: skip
"""In the form of the hub's release."""
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8))


def write(folder: Path, settings: Mapping[str, Any] | None, nested: bool = False) -> Path:
    name = "processor_config.json" if nested else "preprocessor_config.json"
    (folder / "config.json").write_text('{"model_type": "gemma3n"}', encoding="utf-8")
    (folder / name).write_text(json.dumps({"image_processor": settings} if nested else settings), encoding="utf-8")
    return folder


def pixels(folder: Path) -> Any:
    """What ``transformers`` makes of a picture that is no square; ``None`` if it refuses."""
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(folder)(PICTURE, return_tensors="pt")["pixel_values"]
    except Exception:
        return None


def as_read(processor: ImageProcessor) -> Any:
    """The same picture, made by nothing but the two settings that we read."""
    from transformers import SiglipImageProcessor

    number = next(n for n, name in FILTERS.items() if name == processor.resample)
    size = {"height": processor.side, "width": processor.side}
    plain = SiglipImageProcessor(do_normalize=False, resample=number, size=size)
    return plain(PICTURE, return_tensors="pt")["pixel_values"]


def agrees(folder: Path, processor: ImageProcessor) -> bool:
    expected, found = pixels(folder), as_read(processor)
    return expected is not None and expected.shape == found.shape and bool((expected - found).abs().max() < 1e-6)


def test_no_processor_is_the_published_one(tmp_path: Path) -> None:
    assert load_resample(tmp_path) == "bilinear" and load_side(tmp_path) is None


def test_the_published_settings_are_taken(tmp_path: Path) -> None:
    folder = write(tmp_path, PUBLISHED)
    processor = read_image_processor(folder)
    assert processor == ImageProcessor("bilinear", 768) and agrees(folder, processor)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"resample": 2},
        {"resample": ...},
        {"size": {"height": 32, "width": 32}},
        {"size": 32, "default_to_square": True},
        {"size": [32, 32]},
        {"size": ...},
        {"do_normalize": True, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]},
        {"do_normalize": None},
        {"rescale_factor": ...},
        {
            "do_convert_rgb": False,
            "do_pan_and_scan": True,
            "image_seq_length": 9,
            "crop_size": {"height": 8, "width": 8},
        },
    ],
    ids=str,
)
def test_what_is_honoured(changes: dict[str, Any], nested: bool, tmp_path: Path) -> None:
    folder = write(tmp_path, {k: v for k, v in (PLAIN | changes).items() if v is not ...}, nested)
    processor = read_image_processor(folder)
    assert processor is not None and agrees(folder, processor)


REFUSED = [
    ({"resample": 1}, "resample 1"),
    ({"resample": None}, "resample null"),
    ({"resample": [2]}, "resample a list"),
    ({"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}, "normalises"),
    ({"do_normalize": ...}, "without do_normalize, which means true"),
    ({"do_normalize": "no"}, "do_normalize 'no'"),
    ({"do_resize": False}, "do_resize false"),
    ({"do_rescale": False}, "do_rescale false"),
    ({"do_rescale": None}, "do_rescale null"),
    ({"rescale_factor": 1.0}, "rescale_factor 1.0"),
    ({"rescale_factor": None}, "rescale_factor null"),
    ({"rescale_factor": []}, "rescale_factor a list"),
    ({"do_center_crop": True, "crop_size": {"height": 8, "width": 8}}, "do_center_crop true"),
    ({"do_pad": True, "pad_size": {"height": 512, "width": 512}}, "do_pad true"),
    ({"size": {"height": 32, "width": 64}}, "height 32, expected 64"),
    ({"size": {"shortest_edge": 32}}, "shortest_edge 32"),
    ({"size": 32}, "size 32.*shorter edge"),
    ({"size": None}, "size null"),
    ({"image_processor_type": "Gemma3ImageProcessor"}, "image_processor_type 'Gemma3ImageProcessor'"),
]


@pytest.mark.parametrize(("changes", "match"), REFUSED)
def test_what_the_runtime_does_not_do_is_refused(changes: dict[str, Any], match: str, tmp_path: Path) -> None:
    folder = write(tmp_path, {k: v for k, v in (PLAIN | changes).items() if v is not ...})
    for read in (load_resample, load_side):
        with pytest.raises(WrongModel, match=f"preprocessor_config.json.*{match}"):
            read(folder)


def test_the_part_of_the_new_file_goes_before_the_old_file(tmp_path: Path) -> None:
    remarks: list[str] = []
    write(tmp_path, PLAIN | {"size": {"height": 512, "width": 512}, "resample": 2})
    folder = write(tmp_path, PLAIN, nested=True)
    processor = read_image_processor(folder, remarks.append)
    assert processor == ImageProcessor("bicubic", 256) and agrees(folder, processor)
    assert len(remarks) == 1 and "preprocessor_config.json is ignored, which differs in resample, size" in remarks[0]
    (tmp_path / "preprocessor_config.json").write_text("{", encoding="utf-8")
    assert read_image_processor(folder, remarks.append) == processor and "cannot be read" in remarks[1]


@pytest.mark.parametrize("content", [{"image_seq_length": 256}, {"image_processor": None}])
def test_a_new_file_without_the_part_leaves_it_to_the_old_one(content: dict[str, Any], tmp_path: Path) -> None:
    folder, remarks = write(tmp_path, PLAIN), list[str]()
    (folder / "processor_config.json").write_text(json.dumps(content), encoding="utf-8")
    processor = read_image_processor(folder, remarks.append)
    assert processor is not None and agrees(folder, processor) and not remarks


def test_every_setting_that_transformers_takes_is_accounted_for() -> None:
    """And of those that have a default in its class, we have the same."""
    from transformers import SiglipImageProcessor

    valid = SiglipImageProcessor.valid_kwargs.__annotations__
    assert {*valid} == {*DEFAULTS} | {*HARMLESS}
    for name, default in DEFAULTS.items():
        assert getattr(SiglipImageProcessor, name, None) == default, name


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from(sorted({*DEFAULTS} | {*HARMLESS})),
        st.sampled_from([..., None, True, False, 2, 3, 32, 1 / 255, [0, 0, 0], [1, 1, 1], {"height": 32, "width": 32}]),
        max_size=3,
    ),
    st.booleans(),
)
def test_any_setting_is_honoured_or_refused(tmp_path: Path, changes: dict[str, Any], nested: bool) -> None:
    for file in tmp_path.iterdir():
        file.unlink()
    changes = {k: v for k, v in changes.items() if k not in ("device", "return_tensors")}  # they stop transformers
    folder = write(tmp_path, {k: v for k, v in (PLAIN | changes).items() if v is not ...}, nested)
    try:
        processor = read_image_processor(folder)
    except WrongModel:
        event("refused")
        return
    assert processor is not None
    event("taken" if agrees(folder, processor) else "taken, though transformers refuses it")
    assert pixels(folder) is None or agrees(folder, processor)
