"""The log-mel front end against ``transformers``' feature extractor, whole and in pieces."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import Gemma3nAudioFeatureExtractor

from g3n_runtime.errors import SoundError
from g3n_runtime.media import mel as audio
from g3n_runtime.media.mel import OVERLAP, LogMel, MelStream, clip_hops, frame_count, mel_filters, segments, token_steps

TOLERANCE = 1e-5


def voice(samples: int, seed: int = 0) -> np.ndarray:
    """Noise under a moving tone, with a silence in it."""
    noise = np.random.default_rng(seed).normal(0, 0.05, samples)
    at = np.arange(samples) / 16000
    sound = noise + 0.3 * np.sin(2 * np.pi * (200 + 300 * at) * at)
    sound[samples // 3 : samples // 2] = 0
    return sound.astype(np.float32)


@pytest.fixture(scope="module")
def extractor() -> Gemma3nAudioFeatureExtractor:
    return Gemma3nAudioFeatureExtractor()


def features(extractor: Gemma3nAudioFeatureExtractor, samples: np.ndarray) -> np.ndarray:
    out = extractor([samples], return_tensors="np")
    assert out.input_features_mask.all()
    return out.input_features[0]


@pytest.mark.parametrize("samples", [513, 640, 641, 672, 800, 16000, 16001, 48123, 80000, 480000])
def test_equals_the_feature_extractor(samples: int, extractor: Gemma3nAudioFeatureExtractor) -> None:
    sound = voice(samples)
    expected = features(extractor, sound)
    got = LogMel().clip(sound)
    assert got.shape == expected.shape == (frame_count(samples), 128)
    assert np.abs(got - expected).max() < TOLERANCE


def test_filters_are_the_extractors(extractor: Gemma3nAudioFeatureExtractor) -> None:
    assert np.array_equal(mel_filters(), extractor.mel_filters)


@pytest.mark.parametrize(
    ("constant", "value"),
    [
        ("HIGHEST_HZ", 7500.0), ("HIGHEST_HZ", 8000.0), ("LOWEST_HZ", 0.0), ("PRE_EMPHASIS", 0.0),
        ("FLOOR", 1e-10), ("FFT", 512), ("HOP", 161), ("PAD_TO", 1),
    ],
)  # fmt: skip
def test_every_constant_matters(
    constant: str, value: float, extractor: Gemma3nAudioFeatureExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = voice(16001)
    expected = features(extractor, sound)
    monkeypatch.setattr(audio, constant, value)
    got = LogMel().clip(sound)
    assert got.shape != expected.shape or np.abs(got - expected).max() > 100 * TOLERANCE


@pytest.mark.parametrize("pieces", [[1] * 40 + [600], [16000], [160] * 100, [7, 3000, 1, 0, 5000], [2560] * 5])
def test_pieces_of_any_size_give_the_same_frames(pieces: list[int]) -> None:
    sound = voice(sum(pieces))
    stream, frames, at = MelStream(), [], 0
    for n in pieces:
        frames.append(stream.push(sound[at : at + n]))
        at += n
        assert len(stream._rest) < audio.NEEDED
    got = np.concatenate([*frames, stream.finish()])
    assert np.abs(got - LogMel().clip(sound)).max() < TOLERANCE


@pytest.mark.parametrize("samples", [513, 1500, 1600, 2400, 16000, 16001, 48123])
def test_steps_hold_every_frame_that_a_token_hears_once(samples: int) -> None:
    sound = voice(samples)
    steps = list(token_steps([sound[:700], sound[700:]]))
    mel, mask = (np.concatenate(parts, 1)[0] for parts in zip(*steps, strict=True))
    expected = LogMel().clip(sound)
    assert len(steps) == -(-len(expected) // 16)
    heard = int(mask.sum())
    assert heard == min(len(expected), 16 * (len(steps) - 1) + 7)
    assert np.abs(mel[mask == 1] - expected[:heard]).max() < TOLERANCE
    assert not mask[:9].any() and not mel[mask == 0].any()
    assert all(s.mel.shape == (1, 16, 128) for s in steps)


def test_a_step_is_there_as_soon_as_its_sound_is() -> None:
    """Token 0 needs 7 frames: six hops and the 513 samples of the seventh."""
    fed = 0

    def microphone() -> object:
        nonlocal fed
        while True:
            fed += 1
            yield np.zeros(1, np.float32)

    steps = token_steps(microphone())  # type: ignore[arg-type]
    next(steps)
    assert fed == 6 * 160 + 513
    next(steps)
    assert fed == 22 * 160 + 513


@pytest.mark.parametrize("samples", [513, 8000, 51 * 160, 51 * 160 + 160, 99 * 160, 48123])
def test_segments_hold_every_window_whole_in_one(samples: int) -> None:
    sound = voice(samples)
    found = list(segments(sound, 48 + OVERLAP))
    windows = [LogMel().frames(s.values[s.mask].reshape(-1)) for s in found]
    assert np.array_equal(np.concatenate(windows), LogMel().clip(sound))
    assert all(len(w) for w in windows), "a segment without a window would get no soft token"
    assert all(s.values.shape == (1, 51, 160) and not s.values[~s.mask].any() for s in found)
    whole = clip_hops(sound)
    assert np.array_equal(found[-1].values[found[-1].mask], whole[48 * (len(found) - 1) :])


@pytest.mark.parametrize("samples", [0, 1, 512])
def test_too_short(samples: int) -> None:
    with pytest.raises(SoundError, match="at least 513"):
        LogMel().clip(np.zeros(samples, np.float32))
    with pytest.raises(SoundError, match="at least 513"):
        list(token_steps([np.zeros(samples, np.float32)]))
