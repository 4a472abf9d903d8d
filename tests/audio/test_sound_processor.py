"""The feature extractor's settings: those of the one mel front end that bundles have, or refused by name."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from g3n_compiler.errors import WrongModel
from g3n_compiler.models.gemma3n.processor_files import check_count
from g3n_compiler.models.gemma3n.sound_processor import DEFAULTS, HARMLESS, SAVED, check_sound_processor
from g3n_runtime.media.mel import LogMel
from tests.vision.test_processor import PUBLISHED


def write(folder: Path, settings: Mapping[str, Any] | None, part: str | None = None) -> Path:
    name = "preprocessor_config.json" if part is None else "processor_config.json"
    (folder / "config.json").write_text('{"model_type": "gemma3n"}', encoding="utf-8")
    (folder / name).write_text(json.dumps(settings if part is None else {part: settings}), encoding="utf-8")
    return folder


def is_our_mel(folder: Path) -> bool:
    """Whether ``transformers`` makes the frames that we make of a sound with silence, whose last frame is padded."""
    from transformers import AutoFeatureExtractor

    sound = np.random.default_rng(0).normal(0, 0.1, 2900).astype(np.float32)
    sound[:1000] = 0
    try:
        found = AutoFeatureExtractor.from_pretrained(folder)([sound], return_tensors="np")
        mel = found["input_features"][0][found["input_features_mask"][0].astype(bool)]
    except Exception:
        return False
    ours = LogMel().clip(sound)
    return mel.shape == ours.shape and bool(np.allclose(mel, ours, atol=1e-4))


TAKEN = [
    {},
    {"per_bin_mean": None, "per_bin_stddev": None, "return_attention_mask": False},
    {"per_bin_mean": [0.0] * 128, "per_bin_stddev": [1] * 128},
    {"frame_length_ms": 32, "hop_length_ms": 10.0, "preemphasis_htk_flavor": True},
    {"feature_extractor_type": "Gemma3nAudioFeatureExtractor", "frame_length": 400, "unknown": [1]},
]


@pytest.mark.parametrize("part", [None, "feature_extractor", "audio_processor"])
@pytest.mark.parametrize("settings", [*TAKEN, PUBLISHED])
def test_what_makes_our_frames_is_taken(settings: dict[str, Any], part: str | None, tmp_path: Path) -> None:
    folder = write(tmp_path, settings, part)
    check_sound_processor(folder)
    assert is_our_mel(folder)


REFUSED: list[tuple[str, Any]] = [
    ("feature_size", 80),
    ("sampling_rate", 8000),
    ("frame_length_ms", 25.0),
    ("hop_length_ms", 12.5),
    ("min_frequency", 0.0),
    ("max_frequency", 8000.0),
    ("preemphasis", 0.0),
    ("preemphasis", None),
    ("preemphasis_htk_flavor", False),
    ("preemphasis_htk_flavor", None),
    ("fft_overdrive", False),
    ("dither", 1.0),
    ("input_scale_factor", 32768.0),
    ("mel_floor", 1e-3),
    ("per_bin_mean", [1.0] * 128),
    ("per_bin_stddev", [2.0] * 128),
    ("padding_value", 0.5),
    ("padding_side", "left"),
    ("feature_extractor_type", "WhisperFeatureExtractor"),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_what_makes_other_frames_is_refused_by_name(name: str, value: Any, tmp_path: Path) -> None:
    folder = write(tmp_path, {name: value}, "feature_extractor")
    assert not is_our_mel(folder)
    with pytest.raises(WrongModel, match=f"processor_config.json's feature_extractor has {name} .*expected"):
        check_sound_processor(folder)


def test_the_towers_bins_decide(tmp_path: Path) -> None:
    folder = write(tmp_path, {"feature_size": 80})
    check_sound_processor(folder, 80)
    with pytest.raises(WrongModel, match=r"no feature_size, expected 80 \(absent means 128"):
        check_sound_processor(write(tmp_path, {}), 80)


def test_no_settings_are_the_published_ones(tmp_path: Path) -> None:
    check_sound_processor(tmp_path)


def test_what_is_left_aside_is_named(tmp_path: Path) -> None:
    remarks: list[str] = []
    write(tmp_path, {"dither": 1.0})
    folder = write(tmp_path, {"frame_length": 400}, "feature_extractor")
    check_sound_processor(folder, remark=remarks.append)
    assert "preprocessor_config.json is ignored, which differs in dither" in remarks[0]
    assert "frame_length 400, which transformers does not read: it computes 512" in remarks[1]
    assert is_our_mel(folder)


def test_every_setting_of_the_class_is_accounted_for() -> None:
    """And our defaults are its own."""
    from transformers import Gemma3nAudioFeatureExtractor

    taken = dict(inspect.signature(Gemma3nAudioFeatureExtractor.__init__).parameters)
    del taken["self"], taken["kwargs"]
    assert {*taken} | {"padding_side"} == {*DEFAULTS} | {*HARMLESS}
    for name in taken.keys() - HARMLESS.keys():
        assert taken[name].default == DEFAULTS[name], name
    extractor = Gemma3nAudioFeatureExtractor()
    assert extractor.padding_side == DEFAULTS["padding_side"]
    assert {name: getattr(extractor, name) for name in SAVED} == SAVED


@pytest.mark.parametrize(("name", "own"), [("image_seq_length", 256), ("audio_seq_length", 188)])
def test_soft_tokens_of_a_prompt_are_those_of_the_model(name: str, own: int, tmp_path: Path) -> None:
    check_count(tmp_path, name, own)
    for value in (own + 1, None, "x"):
        (tmp_path / "processor_config.json").write_text(json.dumps({name: value}), encoding="utf-8")
        with pytest.raises(WrongModel, match=f"processor_config.json has {name} "):
            check_count(tmp_path, name, own)
    (tmp_path / "processor_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(WrongModel, match=f"no {name}, expected 9, as config.json's"):
        check_count(tmp_path, name, 9)
