"""Videos are read as the model takes them, and hostile ones are refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from g3n_runtime.errors import MediaError, SoundError
from g3n_runtime.media.video import Frame, Wanted, read_video
from g3n_runtime.media.video_tracks import FrameChoice, SoundTrack
from tests.runtime.clips import SOUND_RATE, grey, write_clip

LEVELS = (40, 90, 140, 190)
ALL = Wanted(1.0, 50, 50, 30.0, side=32)


def levels(frames: tuple[Frame, ...]) -> list[int]:
    """The grey of each frame, to the nearest of :data:`LEVELS`."""
    return [min(LEVELS, key=lambda level: abs(level - float(f.image.mean()))) for f in frames]


def tone(seconds: float) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(SOUND_RATE * seconds)) / SOUND_RATE)).astype(np.float32)


@pytest.mark.parametrize(
    ("rate", "most", "shown", "cut"),
    [
        (1, 9, [(0, 0.0), (1, 1.0), (2, 1.9)], False),
        (2, 9, [(0, 0.0), (0.5, 0.5), (1, 1.0), (1.5, 1.4), (2, 1.9)], False),
        (1, 2, [(0, 0.0), (1, 1.0)], True),
        (0.5, 9, [(0, 0.0), (2, 1.9)], False),
        (0.1, 9, [(0, 0.0)], False),
    ],
)
def test_the_frame_shown_at_each_time_is_chosen(
    rate: float, most: int, shown: list[tuple[float, float]], cut: bool
) -> None:
    """Frames at uneven times, the last of them shown for 0.4 s, up to 2.3 s."""
    choice = FrameChoice[float](rate, most)
    times = (0.0, 0.5, 1.0, 1.4, 1.9)
    got = [pair for time in times for pair in choice.push(time, time)]
    got += choice.end(0.4)
    assert got == shown
    assert choice.is_cut == cut


def test_what_is_left_over_is_told() -> None:
    choice = FrameChoice[int](1.0, 2)
    got = [time for second in range(5) for time, _ in choice.push(second, second)]
    assert got == [0, 1] and choice.is_cut


def test_time_that_runs_backwards_or_leaps_ends() -> None:
    choice = FrameChoice[int](60.0, 100)
    got = [frame for at, time in enumerate((5.0, 0.0, 1e12, 3.0)) for _, frame in choice.push(time, at)]
    assert len(got) == 100 and choice.is_cut


def test_silence_stands_where_a_sound_has_nothing() -> None:
    track = SoundTrack("a", 3)
    track.push(0.5, SOUND_RATE, tone(1)[None])
    samples = track.samples()
    assert (
        len(samples) == 1.5 * SOUND_RATE and not samples[: SOUND_RATE // 2].any() and samples[SOUND_RATE // 2 :].any()
    )
    track.push(1.5, SOUND_RATE, tone(1)[None])
    assert not track.is_cut
    track.push(2.5, SOUND_RATE, tone(1)[None])
    assert track.is_cut and len(track.samples()) == 3 * SOUND_RATE
    with pytest.raises(SoundError, match="changes its rate"):
        track.push(3, 2 * SOUND_RATE, tone(1)[None])
    paused = SoundTrack("a", 3)
    paused.push(0, SOUND_RATE, tone(1)[None])
    paused.push(1.01, SOUND_RATE, tone(0.5)[None])
    paused.push(2.25, SOUND_RATE, tone(0.5)[None])
    held = np.abs(paused.samples())
    assert len(held) == 2.75 * SOUND_RATE, "what a call left out is silence, so that the sound stays with its picture"
    assert not held[int(1.5 * SOUND_RATE) : int(2.25 * SOUND_RATE)].any() and held[int(2.3 * SOUND_RATE) :].any()
    late = SoundTrack("a", 3)
    late.push(1e12, SOUND_RATE, tone(1)[None])
    assert len(late.samples()) == 3 * SOUND_RATE


@pytest.mark.parametrize(
    ("name", "codec", "sound_codec"),
    [
        ("a.mp4", "libx264", "aac"),
        ("a.mov", "mjpeg", "pcm_s16le"),
        ("a.webm", "libvpx-vp9", "libopus"),
        ("a.mkv", "libsvtav1", "libopus"),
        ("a.avi", "mpeg4", "pcm_s16le"),
        ("a.3gp", "mpeg4", "aac"),
    ],
)
def test_pictures_and_sound_of_each_kind(name: str, codec: str, sound_codec: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write_clip(path, [grey(level) for level in LEVELS], tone(4), codec=codec, sound_codec=sound_codec)
    video = read_video(path, ALL)
    assert [f.seconds for f in video.frames] == [0, 1, 2, 3] and levels(video.frames) == list(LEVELS)
    assert (
        video.frames[0].image.shape == (32, 32, 3)
        and video.complaint is None
        and not (video.cut_pictures or video.cut_sound)
    )
    assert video.sound is not None and abs(len(video.sound) / SOUND_RATE - 4) < 0.2
    spectrum = np.abs(np.fft.rfft(video.sound[:SOUND_RATE]))
    assert abs(int(spectrum.argmax()) - 440) <= 2 and 0.3 < float(np.abs(video.sound).max()) < 0.7


def test_only_what_is_wanted_is_read(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", [grey(level) for level in LEVELS], tone(4))
    both = read_video(path, Wanted(2.0, 3, 5, 30.0, side=16))
    assert [f.time for f in both.frames] == ["00:00", "00:00.5", "00:01"] and both.cut_pictures
    assert both.sound is not None and len(both.sound) == 1.5 * SOUND_RATE
    deaf = read_video(path, Wanted(2.0, 3, 5, 0.0, side=16))
    assert len(deaf.frames) == 5 and deaf.sound is None and deaf.has_sound and deaf.cut_pictures
    blind = read_video(path, Wanted(1.0, 0, 0, 1.5, side=16))
    assert not blind.frames and blind.has_pictures and blind.sound is not None
    assert len(blind.sound) == 1.5 * SOUND_RATE and blind.cut_sound


def test_a_frame_is_turned_upright(tmp_path: Path) -> None:
    """A phone that is held upright writes lying pictures and by how much to turn them."""
    lying = grey(40)
    lying[:, :48] = 190
    (plain,) = read_video(write_clip(tmp_path / "a.mp4", [lying]), ALL).frames
    (turned,) = read_video(write_clip(tmp_path / "b.mp4", [lying], rotation=90), ALL).frames
    assert np.abs(np.rot90(plain.image).astype(int) - turned.image).max() < 30
    assert turned.image[-4:].mean() > 150 > 80 > turned.image[:4].mean(), "the left is below after a turn to the left"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hosts\n", "does not begin like a video"),
        (b"ffconcat version 1.0\nfile /etc/hosts\n", "does not begin like a video"),
        (b"<?xml version='1.0'?><MPD><BaseURL>http://localhost/</BaseURL></MPD>", "does not begin like a video"),
        (b"\0\0\0\x14ftypisom" + bytes(8), "not a video that can be read"),
        (b"\0\0\0\x08free#EXTM3U\nfile:///etc/hosts\n", "not a video that can be read"),
        (b"\x1a\x45\xdf\xa3" + b"\xff" * 64, "not a video that can be read"),
        (b"RIFF\xff\xff\xff\x7fAVI LIST" + bytes(64), "is cut off: 80 bytes of"),
        (b"RIFF\x40\0\0\0AVI LIST" + bytes(64), "not a video that can be read"),
    ],
)
def test_what_is_no_video_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=said):
        read_video(path, ALL)


def test_a_folder_and_nothing_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.mp4"):
        with pytest.raises(MediaError, match=r"a folder|is missing"):
            read_video(path, ALL)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.mkv", r"a.mkv is cut off after [012]\.\d\d s of 4\.\d\d s"),
        ("a.avi", r"a.avi is cut off: \d+ bytes of \d+ are there"),
        ("a.mp4", "not a video that can be read"),
    ],
)
def test_a_file_that_ends_early_is_refused(name: str, said: str, tmp_path: Path) -> None:
    """FFmpeg takes the first two for shorter ones, without an error."""
    noise = np.random.default_rng(0).integers(0, 255, (4, 64, 96, 3), np.uint8)
    path = write_clip(tmp_path / name, list(noise), tone(4), codec="mpeg4")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match=said):
        read_video(path, ALL)


def test_damage_that_the_decoder_passes_over_is_told(tmp_path: Path) -> None:
    """Matroska's reader leaves out what it does not understand, so pictures of a second and more are missing."""
    noise = np.random.default_rng(0).integers(0, 255, (4, 64, 96, 3), np.uint8)
    path = write_clip(tmp_path / "a.mkv", list(noise), codec="libx265")
    assert read_video(path, ALL).complaint is None
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(1).integers(0, 255, 3000, np.uint8).tobytes()
    path.write_bytes(data)
    assert read_video(path, ALL).complaint


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", [grey(40, 2320, 4096)], rate=1, codec="mpeg4")
    with pytest.raises(MediaError, match="has more than 9,437,184 pixels"):
        read_video(path, ALL)


def test_a_codec_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.avi", [grey(40)], codec="ffv1")
    with pytest.raises(MediaError, match="coded as ffv1"):
        read_video(path, ALL)


LIMITED = """
import socket
from g3n_runtime.media import video_decoder
video_decoder._limit()
for what in (lambda: open("/etc/hosts"), socket.socket):
    try:
        what()
    except OSError as error:
        print(error.errno)
try:
    bytearray(video_decoder.MEMORY)
except MemoryError:
    print("no memory")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_the_decoder_can_open_nothing_and_take_no_more_memory() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["24", "24", "no memory"]
