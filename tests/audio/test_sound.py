"""Sound files of every kind that is read, and a clear error for each that is not one."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from g3n_runtime.errors import SoundError
from g3n_runtime.media.mel import LogMel
from g3n_runtime.media.sound import MAX_SECONDS, RATE, read_blocks, read_clip, read_sound, to_mono
from tests.damage import mutated


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
    with pytest.raises(SoundError, match="the 30 s of one clip: cut it"):
        read_clip(path)
    assert sum(len(b) for b in read_blocks(path)) == len(read_sound(path)) == 30 * RATE + 1


def refused(path: Path) -> str:
    with pytest.raises(SoundError) as caught:
        list(read_blocks(path))
    assert path.name in str(caught.value)
    return str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    assert "is missing" in refused(tmp_path / "none.wav")
    assert "is a folder" in refused(tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    assert "0 bytes" in refused(tmp_path / "a.wav")


def test_no_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0), RATE)
    assert "no samples" in refused(tmp_path / "a.wav")


@pytest.mark.parametrize("suffix", ["wav", "mp3", "ogg", "flac"])
def test_text_by_the_name_of_a_sound(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a.{suffix}").write_text("This is not a sound.\n" * 50)
    assert "WAV, AIFF, FLAC, OGG and MP3 are read" in refused(tmp_path / f"a.{suffix}")


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


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    for path, match in {
        tmp_path / "pipe.wav": "is a pipe",
        Path("/dev/zero"): "is a device",
        tmp_path / "a\0b": "is not a file name",
        tmp_path / ("x" * 5000): "cannot be read",
    }.items():
        with pytest.raises(SoundError, match=match):
            read_clip(path)


def test_samples_without_a_header_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(32_000))
    assert "does not begin like a sound" in refused(tmp_path / "a.raw")
    soundfile.write(tmp_path / "a.wav", tone(RATE), RATE)
    (tmp_path / "a.wav").rename(tmp_path / "b.raw")
    assert len(read_clip(tmp_path / "b.raw")) == RATE


@pytest.mark.parametrize("kind", ["AU", "CAF", "W64", "MAT5", "PAF", "SVX", "VOC", "HTK", "AVR", "IRCAM", "NIST"])
def test_kinds_that_are_not_named_are_refused(kind: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.x", np.zeros(RATE, np.int16), RATE, format=kind)
    assert "WAV, AIFF, FLAC, OGG and MP3 are read" in refused(tmp_path / "a.x")
    (tmp_path / "a.x").write_bytes(b"ID3\4\0\0\0\0\0\0" + (tmp_path / "a.x").read_bytes())
    assert "WAV, AIFF, FLAC, OGG and MP3 are read" in refused(tmp_path / "a.x")


HEADERS = {
    "no channels": (22, 0, 2),
    "9 channels": (22, 9, 2),
    "65,535 channels": (22, 65_535, 2),
    "0 Hz": (24, 0, 4),
    "1 Hz": (24, 1, 4),
    "4 GHz": (24, 0xFFFFFFFF, 4),
}


@pytest.mark.parametrize("at, value, length", HEADERS.values(), ids=HEADERS)
def test_a_header_that_no_sound_has(at: int, value: int, length: int, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(RATE), RATE)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[at : at + length] = value.to_bytes(length, "little")
    (tmp_path / "a.wav").write_bytes(content)
    refused(tmp_path / "a.wav")


def test_a_length_that_the_header_tells_is_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FLAC that claims 2**36 samples, and one of ten hours, of silence."""
    soundfile.write(tmp_path / "a.flac", tone(RATE), RATE)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[21] |= 0x0F
    content[22:26] = b"\xff" * 4
    (tmp_path / "a.flac").write_bytes(content)
    with soundfile.SoundFile(tmp_path / "b.flac", "w", 1000, 1) as file:
        for _ in range(60):
            file.write(np.zeros(1000 * 600, np.int16))

    def fails(*_: object, **__: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(soundfile.SoundFile, "read", fails)
    for name in ("a.flac", "b.flac"):
        assert f"lasts more than the {MAX_SECONDS} s" in refused(tmp_path / name)
        with pytest.raises(SoundError, match="the 30 s of one clip"):
            read_clip(tmp_path / name)


def test_a_length_that_no_header_tells_ends_at_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(20 * RATE, np.int16), RATE)
    monkeypatch.setattr(soundfile.SoundFile, "frames", property(lambda self: 2**63 - 1))
    blocks = read_blocks(tmp_path / "a.wav", 5)
    assert sum(len(next(blocks)) for _ in range(5)) == 5 * RATE
    with pytest.raises(SoundError, match="lasts more than the 5 s"):
        next(blocks)


def test_a_sound_shorter_than_a_sample_of_the_model(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(1, np.int16), 192_000)
    assert "holds 1 samples" in refused(tmp_path / "a.wav")
    with pytest.raises(SoundError, match="holds 1 samples"):
        read_clip(tmp_path / "a.wav")


def test_samples_that_float32_cannot_add_are_refused(tmp_path: Path) -> None:
    """They would reach the encoder as infinities; integers that were written unscaled do not."""
    soundfile.write(tmp_path / "a.wav", np.full((RATE, 2), 3e38, np.float32), RATE, subtype="FLOAT")
    assert "has a sample of 3e+38, expected at most 2.15e+09" in refused(tmp_path / "a.wav")
    soundfile.write(tmp_path / "a.wav", np.full((RATE, 2), 2.0**31, np.float32), RATE, subtype="FLOAT")
    assert np.isfinite(LogMel().clip(read_clip(tmp_path / "a.wav"))).all()


def a_sound(suffix: str) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, tone(8000, 0.2, 2), 8000, format=suffix)
    return content.getvalue()


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_damaged_sound_is_read_or_refused(suffix: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(SoundError):
        path = Path(folder, f"a.{suffix}")
        path.write_bytes(data.draw(mutated(a_sound(suffix))))
        assert np.isfinite(read_clip(path)).all()
