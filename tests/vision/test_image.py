"""Picture files: what the processor would make of them, and a clear error for each that is none."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from transformers import SiglipImageProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from g3n_runtime.errors import MediaError
from g3n_runtime.image import MAX_PIXELS, Resample, load_image, png

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


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

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
    ],
)
def test_what_is_no_picture_is_refused(name: str, content: bytes, match: str, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=match) as caught:
        load_image(write(tmp_path / name, content), 256)
    assert name in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="is missing: name an image file"):
        load_image(tmp_path / "none.png", 256)
    with pytest.raises(MediaError, match=r"broken|directory"):
        load_image(tmp_path, 256)


def test_a_jpeg_of_100_megapixels_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """In a process of its own: what it grows by while it reads one of 10,000 x 10,000."""
    Image.new("RGB", (10_000, 10_000), (200, 30, 90)).save(tmp_path / "big.jpg", quality=30)
    code = (
        "import resource, sys; from pathlib import Path; from g3n_runtime.image import load_image\n"
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
