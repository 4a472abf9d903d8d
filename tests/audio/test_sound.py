"""Sound files of every kind that is read, and a clear error for each that is not one."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from g3n_runtime.errors import SoundError
from g3n_runtime.sound import RATE, read_blocks, read_clip, to_mono


def tone(rate: int, seconds: float = 1.0, channels: int = 1) -> np.ndarray:
    """440 Hz, each channel of its own loudness; their mean has an amplitude of 0.4."""
    at = np.arange(int(rate * seconds)) / rate
    loudness = np.linspace(0.2, 0.6, channels) if channels > 1 else np.array([0.4])
    return np.sin(2 * np.pi * 440 * at)[:, None] * loudness


def like_the_tone(samples: np.ndarray) -> float:
    """Largest difference from the tone at 16 kHz, edges apart."""
    expected = tone(RATE)[:, 0]
    n = min(len(samples), len(expected))
    return float(np.abs(samples[:n] - expected[:n])[800:-800].max())


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_wav_of_any_rate_and_channel_count(rate: int, channels: int, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(rate, channels=channels), rate)
    samples = read_clip(path)
    assert samples.dtype == np.float32
    assert abs(len(samples) - RATE) <= 1
    assert like_the_tone(samples) < 2e-3


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [
        ("wav", "PCM_U8", 0.01), ("wav", "PCM_24", 1e-4), ("wav", "FLOAT", 1e-4), ("wav", "ULAW", 0.02),
        ("flac", None, 1e-4), ("ogg", "VORBIS", 0.05), ("ogg", "OPUS", 0.05), ("mp3", None, 0.05),
    ],
)  # fmt: skip
def test_every_format(suffix: str, subtype: str | None, tolerance: float, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tone(48000, channels=2), 48000, subtype=subtype)
    samples = read_clip(path)
    assert abs(len(samples) - RATE) <= 1
    assert like_the_tone(samples) < tolerance


def test_blocks_join_without_a_seam(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(44100, 5.3), 44100, subtype="FLOAT")
    blocks = list(read_blocks(path))
    assert len(blocks) >= 5
    expected = tone(RATE, 5.3)[:, 0]
    got = np.concatenate(blocks)
    assert abs(len(got) - len(expected)) <= 1
    assert np.abs(got[: len(expected)] - expected[: len(got)])[800:-800].max() < 1e-3


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    peaks = []
    for seconds in (10, 120):
        path = tmp_path / f"{seconds}.wav"
        soundfile.write(path, np.zeros((44100 * seconds, 2), np.int16), 44100)
        tracemalloc.start()
        count = sum(len(b) for b in read_blocks(path))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert abs(count - RATE * seconds) <= 1
    assert peaks[1] < 1.2 * peaks[0]


def test_clip_of_thirty_seconds_and_not_a_sample_more(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(30 * RATE, np.int16), RATE)
    assert len(read_clip(path)) == 30 * RATE
    soundfile.write(path, np.zeros(30 * RATE + 1, np.int16), RATE)
    with pytest.raises(SoundError, match=r"30 s .* streaming"):
        read_clip(path)
    assert sum(len(b) for b in read_blocks(path)) == 30 * RATE + 1


def refused(path: Path) -> str:
    with pytest.raises(SoundError) as caught:
        list(read_blocks(path))
    assert path.name in str(caught.value)
    return str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    assert "not a file" in refused(tmp_path / "none.wav")
    assert "not a file" in refused(tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    assert "0 bytes" in refused(tmp_path / "a.wav")


def test_no_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0), RATE)
    assert "no samples" in refused(tmp_path / "a.wav")


@pytest.mark.parametrize("suffix", ["wav", "mp3", "ogg", "flac"])
def test_text_by_the_name_of_a_sound(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a.{suffix}").write_text("This is not a sound.\n" * 50)
    assert "WAV, FLAC, OGG and MP3 are read" in refused(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_samples(value: float, tmp_path: Path) -> None:
    sound = tone(RATE, 2.5)
    sound[30000:30003] = value
    soundfile.write(tmp_path / "a.wav", sound, RATE, subtype="FLOAT")
    assert "3 samples that are NaN or infinite" in refused(tmp_path / "a.wav")


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_cut_off(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).normal(0, 0.1, 5 * RATE)
    soundfile.write(path, noise, RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    message = refused(path)
    assert "cut off" in message or "damaged" in message


def test_wav_from_a_pipe_has_no_size(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(RATE), RATE)
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert len(read_clip(path)) == RATE


def test_too_many_channels(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((100, 12)), RATE)
    assert "12 channels, expected 1 to 8" in refused(tmp_path / "a.wav")


def test_arrays_of_a_wrong_shape() -> None:
    with pytest.raises(SoundError, match="turn the array"):
        to_mono(np.zeros((2, 16000)))
    with pytest.raises(SoundError, match="shape"):
        to_mono(np.zeros((1, 2, 3)))
    with pytest.raises(SoundError, match="0 channels"):
        to_mono(np.zeros((5, 0)))
