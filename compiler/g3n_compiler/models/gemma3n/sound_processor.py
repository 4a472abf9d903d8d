"""The settings of the checkpoint's feature extractor, held against the one mel front end that every bundle has.

Source: ``transformers`` ``Gemma3nAudioFeatureExtractor``. What :mod:`g3n_runtime.media.mel` computes is the published
model's; an encoder trained on other frames would hear noise, so any other setting is refused by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from g3n_compiler.checkpoint.fields import Section, show
from g3n_compiler.checkpoint.remark import Remark, no_remark
from g3n_compiler.models.gemma3n.processor_files import SOUND, TAKE, processor_settings, require
from g3n_runtime.media.mel import BINS, FFT, FLOOR, HIGHEST_HZ, HOP, LOWEST_HZ, PRE_EMPHASIS, RATE, WINDOW

CLASS = "Gemma3nAudioFeatureExtractor"
DEFAULTS: dict[str, Any] = {
    "feature_size": 128,
    "sampling_rate": 16_000,
    "frame_length_ms": 32.0,
    "hop_length_ms": 10.0,
    "min_frequency": 125.0,
    "max_frequency": 7600.0,
    "preemphasis": 0.97,
    "preemphasis_htk_flavor": True,
    "fft_overdrive": True,
    "dither": 0.0,
    "input_scale_factor": 1.0,
    "mel_floor": 1e-5,
    "per_bin_mean": None,
    "per_bin_stddev": None,
    "padding_value": 0.0,
    "padding_side": "right",
}
"""The class's own, for fields that are absent."""
HARMLESS = {"return_attention_mask": "the processor asks for the mask itself"}
SAVED = {"frame_length": WINDOW, "hop_length": HOP, "fft_length": FFT}
"""Written by ``save_pretrained``, but computed anew from the other fields when they are loaded."""


def check_sound_processor(directory: Path, bins: int = BINS, remark: Remark = no_remark) -> None:
    """Raise unless the checkpoint's feature extractor makes the frames that the bundle makes.

    Args:
        bins: the audio tower's ``input_feat_size``.

    Raises:
        WrongModel: the setting, and what it would have to be.
    """
    settings = processor_settings(directory, SOUND, DEFAULTS, remark)
    if settings is None:
        return
    if settings.raw("feature_extractor_type") not in (None, CLASS):
        raise settings.wrong(
            "feature_extractor_type", f"{CLASS}, which is Gemma 3n's: take the file of the model itself"
        )
    for name, expected in _expected(bins).items():
        require(settings, name, DEFAULTS[name], expected, "the bundle's mel front end computes this and nothing else")
    _check_length(settings, "frame_length_ms", WINDOW)
    _check_length(settings, "hop_length_ms", HOP)
    for name, length in SAVED.items():
        if settings.raw(name) not in (None, length):
            remark(
                f"{settings.where} has {name} {show(settings.raw(name))}, which transformers does not read: it "
                f"computes {length} from the other settings"
            )
    for name, nothing in (("per_bin_mean", 0.0), ("per_bin_stddev", 1.0)):
        values = settings.raw(name)
        if values is not None and not (isinstance(values, list) and all(v == nothing for v in values)):
            raise settings.wrong(name, f"null: the bundle's mel front end does not normalise; {TAKE}")


def _expected(bins: int) -> dict[str, Any]:
    return {
        "feature_size": bins,
        "sampling_rate": RATE,
        "min_frequency": LOWEST_HZ,
        "max_frequency": HIGHEST_HZ,
        "preemphasis": PRE_EMPHASIS,
        "preemphasis_htk_flavor": True,
        "fft_overdrive": True,
        "dither": 0.0,
        "input_scale_factor": 1.0,
        "mel_floor": FLOOR,
        "padding_value": 0.0,
        "padding_side": "right",
    }


def _check_length(settings: Section, name: str, length: int) -> None:
    """``transformers`` rounds a length in milliseconds to samples."""
    value = settings.number(name, DEFAULTS[name], 0.0, 1e6)
    if round(RATE * value / 1000) != length:
        raise settings.wrong(name, f"{1000 * length / RATE:g}, which is {length} samples; {TAKE}")
