"""Picture files: what the processor would make of them, and a clear error for each that is none."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile
from transformers import SiglipImageProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from g3n_runtime.errors import MediaError
from g3n_runtime.media import jpeg
from g3n_runtime.media.image import MAX_BYTES, MAX_PIXELS, MAX_SCANS, Resample, load_image, png
from tests.damage import mutated

FORMATS = {"png": {}, "jpg": {"quality": 90}, "webp": {"lossless": True}}
RESAMPLES: dict[Resample, int] = {"bilinear": 2, "bicubic": 3}


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(0).integers(0, 60, (height, width))
    planes = [(x * 255 // width), (y * 255 // height), (x + y) % 195 + noise, 255 * (x > y)]
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8), "RGBA").convert(mode)


def processed(path: Path, side: int, resample: int, kind: Any = SiglipImageProcessorPil) -> np.ndarray:
    """``[side, side, 3]`` in 0..255 by the reference, given the upright picture."""
    processor = kind(size={"height": side, "width": side}, resample=resample, do_normalize=False, do_convert_rgb=True)
    with Image.open(path) as picture:
        upright = ImageOps.exif_transpose(picture)
    values = processor(upright, return_tensors="np")["pixel_values"][0]
    return np.round(np.asarray(values).transpose(1, 2, 0) * 255)


@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [(640, 480), (101, 333), (64, 64), (256, 256), (1, 7)])
def test_equals_the_processor(size: tuple[int, int], kind: str, resample: Resample, tmp_path: Path) -> None:
    path = tmp_path / f"p.{kind}"
    picture(*size).save(path, **FORMATS[kind])
    got = load_image(path, 256, resample)
    assert got.shape == (256, 256, 3) and got.dtype == np.uint8
    assert np.array_equal(got, processed(path, 256, RESAMPLES[resample]))
    # The torch backend rounds its weights otherwise, and clamps overshoots later.
    off = np.abs(got - processed(path, 256, RESAMPLES[resample], SiglipImageProcessor))
    assert off.max() <= 1 if resample == "bilinear" else (off > 1).mean() < 1e-3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "p.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(320, 200).save(path, quality=95, exif=exif)
    got = load_image(path, 128)
    assert np.array_equal(got, processed(path, 128, 2))
    plain = tmp_path / "plain.jpg"
    picture(320, 200).save(plain, quality=95)
    assert np.array_equal(got, load_image(plain, 128)) is (orientation == 1)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_modes(mode: str, tmp_path: Path) -> None:
    """Transparency lies on white, and nothing is taken for something else."""
    path = tmp_path / ("p.jpg" if mode == "CMYK" else "p.png")
    picture(120, 90, "RGBA").convert(mode).save(path)
    assert np.array_equal(load_image(path, 64), processed(path, 64, 2))


def test_16_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "p.png")
    got = load_image(tmp_path / "p.png", 64)
    assert np.abs(got[..., 0].astype(int) - grey // 257).max() <= 1


def test_png_keeps_every_value(tmp_path: Path) -> None:
    image = np.asarray(picture(33, 44))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(image)))), image)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def encoded(kind: str) -> bytes:
    out = io.BytesIO()
    picture(200, 150).save(out, {"jpg": "JPEG"}.get(kind, kind))
    return out.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk after its header."""
    return encoded("png")[:33] + chunk(kind, content) + encoded("png")[33:]


def many_scans(count: int, side: int = 64) -> bytes:
    """A progressive JPEG whose last scan is there until there are ``count``."""
    out = io.BytesIO()
    Image.new("RGB", (side, side), (9, 90, 30)).save(out, "JPEG", progressive=True)
    data = out.getvalue()[:-2]
    last = data.rindex(b"\xff\xda")
    return data + data[last:] * (count - data.count(b"\xff\xda")) + b"\xff\xd9"


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        pytest.param("a.png", b"", "not a PNG", id="empty file"),
        pytest.param("a.jpg", b"just some words about a picture", "not a PNG", id="text"),
        pytest.param("a.gif", b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", "not a PNG", id="another format"),
        pytest.param("a.png", encoded("png")[:2000], "broken", id="truncated png"),
        pytest.param("a.jpg", encoded("jpg")[:2000], "broken", id="truncated jpeg"),
        pytest.param("a.webp", encoded("webp")[:200], "not a PNG|broken", id="truncated webp"),
        pytest.param("a.png", encoded("png")[:60] + b"\xff" * 500 + encoded("png")[560:], "broken", id="corrupt png"),
        pytest.param("a.png", png_header(0, 5), "not a PNG|empty|broken", id="zero width"),
        pytest.param("a.png", png_header(10_000, 10_000), "10000 x 10000", id="100 megapixels claimed"),
        pytest.param("a.png", png_header(60_000, 60_000), "too large", id="a decompression bomb"),
        pytest.param("a.png", png_header(1, 31_999_999), "a side is read up to 65,535", id="a line of 32 million"),
        pytest.param("a.png", png_header(65_536, 1), "a side is read up to 65,535", id="a line of 65,536"),
        pytest.param("a.jpg", many_scans(101), "101 scans", id="a JPEG of 101 scans"),
        pytest.param("a.png", with_chunk(b"eXIf", b"II*" + bytes(2 << 20)), "bytes of EXIF", id="2 MB of EXIF"),
        pytest.param("a.png", with_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2 << 20))), "broken", id="zTXt bomb"),
        pytest.param(
            "a.png", with_chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 5\nzz"), "broken", id="EXIF that is none"
        ),
    ],
)
def test_what_is_no_picture_is_refused(name: str, content: bytes, match: str, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=match) as caught:
        load_image(write(tmp_path / name, content), 256)
    assert name in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="is missing"):
        load_image(tmp_path / "none.png", 256)
    with pytest.raises(MediaError, match="is a folder, expected a file"):
        load_image(tmp_path, 256)


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, match in {
        tmp_path / "pipe": "is a pipe",
        Path("/dev/zero"): "is a device",
        tmp_path / "a\0b": "is not a file name",
        tmp_path / ("x" * 5000): "cannot be read",
    }.items():
        with pytest.raises(MediaError, match=match):
            load_image(path, 64)
    with (tmp_path / "big.png").open("wb") as file:
        file.write(encoded("png"))
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(MediaError, match=f"at most {MAX_BYTES} are read"):
        load_image(tmp_path / "big.png", 64)


def test_scans_are_counted(tmp_path: Path) -> None:
    """As they are in the file, not in a preview inside it."""
    assert jpeg.scans(encoded("jpg")) == (1, False)
    assert jpeg.scans(many_scans(20)) == (20, True)
    preview = many_scans(20)
    inside = encoded("jpg")[:2] + b"\xff\xed" + struct.pack(">H", len(preview) + 2) + preview + encoded("jpg")[2:]
    assert jpeg.scans(inside + preview) == (1, False)
    load_image(write(tmp_path / "a.jpg", many_scans(MAX_SCANS)), 64)


def test_a_large_photo_may_have_others_behind_it(tmp_path: Path) -> None:
    """Phones add a map of the highlights; Pillow calls such a JPEG an MPO."""
    large, small = Image.new("RGB", (6400, 5200), (200, 30, 90)), Image.new("RGB", (64, 64))
    large.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[small], quality=30)
    with Image.open(tmp_path / "a.jpg") as opened:
        assert opened.format == "MPO"
    assert np.abs(load_image(tmp_path / "a.jpg", 64).astype(int) - (200, 30, 90)).max() < 3


def test_a_large_progressive_jpeg_is_refused(tmp_path: Path) -> None:
    """Its decoder would hold all of it, at whatever size it is wanted."""
    Image.new("RGB", (6400, 5200)).save(tmp_path / "a.jpg", progressive=True, quality=30)
    with pytest.raises(MediaError, match="progressive JPEG images are read up to 32,000,000"):
        load_image(tmp_path / "a.jpg", 64)


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_of_an_animation_the_first_picture_is_taken(kind: str, tmp_path: Path) -> None:
    colours = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    options: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
    colours[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=colours[1:], duration=100, **options)
    assert (load_image(tmp_path / f"a.{kind}", 32) == (255, 0, 0)).all()


def test_damaged_fields_do_not_fill_the_terminal(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Pillow warns of each; a file may have 65,535 of them."""
    fields = b"".join(struct.pack("<HHII", tag, 1, 10_000, 10) for tag in range(1000))
    exif = struct.pack("<2sHIH", b"II", 42, 8, 1000) + fields
    load_image(write(tmp_path / "a.png", with_chunk(b"eXIf", exif)), 64)
    assert not recwarn.list


def upright_only_by_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    out = io.BytesIO()
    picture(40, 30).save(out, "JPEG", exif=exif)
    return out.getvalue()


REAL = {kind: encoded(kind) for kind in FORMATS} | {"exif.jpg": upright_only_by_exif()}


@pytest.mark.parametrize("kind", REAL)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_damaged_picture_is_read_or_refused(kind: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(MediaError):
        load_image(write(Path(folder, f"a.{kind}"), data.draw(mutated(REAL[kind]))), 32)


@pytest.mark.parametrize("error", [KeyError("x"), ZeroDivisionError(), OverflowError("y"), MemoryError(), zlib.error()])
def test_whatever_a_decoder_raises_is_a_media_error(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(PngImageFile, "load_prepare", fails)
    with pytest.raises(MediaError, match=r"a\.png"):
        load_image(write(tmp_path / "a.png", encoded("png")), 64)


def test_no_picture_takes_more_than_a_gigabyte(tmp_path: Path) -> None:
    """Half of one for half the pixels that are read: with transparency, turned; and for a line."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGBA", (4000, 4000), (200, 30, 90, 128)).save(tmp_path / "a.png", compress_level=1, exif=exif)
    Image.new("L", (65_535, 488)).save(tmp_path / "line.png", compress_level=1)
    code = (
        "import resource, sys; from pathlib import Path; from g3n_runtime.media.image import load_image\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 500_000_000, -1))\n"
        "print(*(load_image(Path(name), 768).shape for name in sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "a.png"), str(tmp_path / "line.png")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "(768, 768, 3) (768, 768, 3)"


def test_a_jpeg_of_100_megapixels_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """In a process of its own: what it grows by while it reads one of 10,000 x 10,000."""
    Image.new("RGB", (10_000, 10_000), (200, 30, 90)).save(tmp_path / "big.jpg", quality=30)
    code = (
        "import resource, sys; from pathlib import Path; from g3n_runtime.media.image import load_image\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); image = load_image(Path(sys.argv[1]), 768)\n"
        "print(peak() - before, *image[5, 5])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "big.jpg")], capture_output=True, text=True, check=True
    )
    grown, red, green, blue = (int(n) for n in done.stdout.split())
    assert grown * 1024 < 8 * MAX_PIXELS
    assert abs(red - 200) < 3 and abs(green - 30) < 3 and abs(blue - 90) < 3
