"""Readers of what a user brings: pictures, sounds, videos, and examples to calibrate with."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from tests.fuzz.case import Case, Entry
from tests.fuzz.mutate_bytes import damaged, edited_parts, png_chunks, png_of, riff_chunks, riff_of
from tests.fuzz.mutate_json import edited_json
from tests.fuzz.reader import Reader, files
from tests.runtime.clips import write_clip

SOUND_NAMES = ("sound", "sound.wav", "sound.raw", "sound.ogg", "sound.RAW", "sound.mp3", "sound.flac", "sound.au")
LINES = 4
"""Lines of a file of examples that is damaged."""


def pictures(folder: Path) -> None:
    """A picture of each kind that is read, small."""
    from PIL import Image

    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 255, (24, 40, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    saves = {
        "rgb.png": (rgb, {}),
        "alpha.png": (rgb.convert("RGBA"), {}),
        "palette.png": (rgb.convert("P"), {"transparency": 3}),
        "deep.png": (Image.fromarray(rng.integers(0, 65535, (9, 7), np.uint16)), {}),
        "bits.png": (rgb.convert("1"), {}),
        "exif.jpg": (rgb, {"exif": exif}),
        "progressive.jpg": (rgb, {"progressive": True}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "lossy.webp": (rgb, {"exif": exif}),
        "lossless.webp": (rgb.convert("RGBA"), {"lossless": True}),
        "moving.webp": (rgb, {"save_all": True, "append_images": [rgb.rotate(90)]}),
        "text.png": (rgb, {"pnginfo": _text()}),
    }
    for name, (picture, options) in saves.items():
        out = io.BytesIO()
        picture.save(out, {"jpg": "JPEG"}.get(name[-3:], name.rsplit(".")[-1].upper()), **options)
        (folder / name).write_bytes(out.getvalue())
    (folder / "picture").write_bytes((folder / "rgb.png").read_bytes())


def _text() -> object:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("comment", "x" * 1000, zip=True)
    info.add_itxt("Title", "é")
    return info


def picture_cases(folder: Path) -> st.SearchStrategy[Case]:
    seeds = {p.name: p.read_bytes() for p in folder.iterdir()}
    png = [data for name, data in seeds.items() if name.endswith("png")]
    webp = [data for name, data in seeds.items() if name.endswith("webp")]
    contents = st.one_of(
        damaged(list(seeds.values())),
        edited_parts(png, png_chunks, png_of),
        edited_parts(webp, riff_chunks, riff_of),
    )
    return files("picture", contents)


def sounds(folder: Path) -> None:
    """A sound of each kind that is read, a fifth of a second."""
    import soundfile

    samples = np.sin(np.arange(3200) / 7).astype(np.float32) / 2
    stereo = np.stack((samples, -samples), 1)
    for name, data, rate, options in (
        ("a.wav", samples, 16_000, {"subtype": "PCM_16"}),
        ("b.wav", stereo, 44_100, {"subtype": "FLOAT"}),
        ("c.wav", samples, 8_000, {"subtype": "IMA_ADPCM"}),
        ("d.wav", samples, 16_000, {"subtype": "PCM_24", "format": "WAVEX"}),
        ("a.flac", stereo, 48_000, {}),
        ("a.ogg", samples, 16_000, {}),
        ("b.ogg", samples, 16_000, {"subtype": "OPUS", "format": "OGG"}),
        ("a.mp3", samples, 16_000, {}),
        ("a.aiff", samples, 22_050, {}),
        ("a.au", samples, 16_000, {}),
        ("a.caf", samples, 16_000, {}),
        ("a.w64", samples, 16_000, {}),
        ("a.mat", samples, 16_000, {"format": "MAT5"}),
    ):
        soundfile.write(folder / name, data, rate, **options)
    (folder / "sound").write_bytes((folder / "a.wav").read_bytes())


def sound_cases(folder: Path) -> st.SearchStrategy[Case]:
    seeds = {p.name: p.read_bytes() for p in folder.iterdir()}
    wav = [data for name, data in seeds.items() if name.endswith("wav")]
    contents = damaged(list(seeds.values())) | edited_parts(wav, riff_chunks, riff_of)
    return st.sampled_from(SOUND_NAMES).flatmap(lambda name: files(name, contents))


def videos(folder: Path) -> None:
    """A video of each kind that is read, three small pictures and a sound."""
    rng = np.random.default_rng(0)
    pictures = list(rng.integers(0, 255, (3, 32, 48, 3), np.uint8))
    sound = np.sin(np.arange(4800) / 7) / 2
    for name, codec, sound_codec in (
        ("a.mp4", "libx264", "aac"),
        ("a.mov", "mjpeg", "pcm_s16le"),
        ("a.webm", "libvpx-vp9", "libopus"),
        ("a.avi", "mpeg4", "libmp3lame"),
        ("b.mp4", "libsvtav1", "aac"),
    ):
        write_clip(folder / name, pictures, sound, seconds_each=0.1, codec=codec, sound_codec=sound_codec)
    (folder / "video").write_bytes((folder / "a.mp4").read_bytes())


def video_cases(folder: Path) -> st.SearchStrategy[Case]:
    seeds = {p.name: p.read_bytes() for p in folder.iterdir()}
    avi = [data for name, data in seeds.items() if name.endswith("avi")]
    return files("video", damaged(list(seeds.values())) | edited_parts(avi, riff_chunks, riff_of))


def examples(folder: Path) -> None:
    pictures(folder)
    sounds(folder)
    lines = [
        {"prompt": "What is a river?", "answer": "A large natural stream of water."},
        {"prompt": "What is in the picture?", "images": ["rgb.png", "exif.jpg"], "answer": "A boat."},
        {"prompt": "Transcribe.", "audio": ["a.wav"], "answer": "Buy bread."},
        {"text": "Plain text, not a chat."},
    ]
    (folder / "examples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def example_cases(folder: Path) -> st.SearchStrategy[Case]:
    text = (folder / "examples.jsonl").read_bytes()
    lines = text.splitlines()

    def with_line(at: int, line: bytes) -> bytes:
        return b"\n".join([*lines[:at], line, *lines[at + 1 :]])

    edited = st.builds(with_line, st.integers(0, LINES - 1), edited_json([json.loads(line) for line in lines]))
    named = st.builds(
        lambda case, entry: {**case, "rgb.png": entry}, files("examples.jsonl", edited), st.just(Entry("pipe"))
    )
    return st.one_of(
        files("examples.jsonl", edited),
        files("examples.jsonl", edited),
        files("examples.jsonl", damaged([text])),
        named,
    )


def open_picture() -> Callable[[Path], object]:
    from g3n_runtime.media.image import load_image

    return lambda folder: load_image(folder / "picture", 256)


def open_sound() -> Callable[[Path], object]:
    """A sound as a clip, and as a stream takes it."""
    from g3n_runtime.media.sound import read_blocks, read_clip

    def read(folder: Path) -> None:
        path = max((p for p in folder.iterdir() if p.name.startswith("sound")), key=lambda p: len(p.name))
        read_clip(path)
        for _ in read_blocks(path):
            pass

    return read


def open_video() -> Callable[[Path], object]:
    from g3n_runtime.media.video import Wanted, read_video

    return lambda folder: read_video(folder / "video", Wanted(10.0, 8, 8, 5.0, side=32))


def open_examples() -> Callable[[Path], object]:
    from g3n_compiler.calibrate.examples import examples_sha256, load_examples

    return lambda folder: examples_sha256(folder / "examples.jsonl", load_examples(folder / "examples.jsonl"))


READERS = (
    Reader("calibration examples", examples, example_cases, open_examples),
    Reader("image", pictures, picture_cases, open_picture),
    Reader("sound", sounds, sound_cases, open_sound),
    Reader("video", videos, video_cases, open_video),
)
