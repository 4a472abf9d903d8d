"""Picture files as the vision tower's input: decoded, turned upright and resized as the model's processor does it.

Reference: ``transformers`` ``load_image`` and ``SiglipImageProcessor``, which stretches the whole picture to a square.
Memory is bounded by :data:`MAX_BYTES`, :data:`MAX_PIXELS` and :data:`MAX_SIDE`, whatever the file claims: at most
about 1 GB, which a WebP of the largest size takes.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from g3n_runtime.errors import EngineError, MediaError
from g3n_runtime.media import jpeg
from g3n_runtime.reading import read_bytes
from g3n_runtime.terminal import printable_line

Resample = Literal["bilinear", "bicubic"]
FORMATS = ("PNG", "JPEG", "WEBP")
MAX_BYTES = 128 << 20
"""Of a file; the largest that a phone makes has 200 megapixels in 50 MB."""
MAX_PIXELS = 32_000_000
"""Most pixels that are decoded at once (128 MB with transparency); a larger JPEG is shrunk while it is decoded."""
MAX_SIDE = 65_535
"""Most pixels of a side, as JPEG has it: Pillow spends memory on each row too, 1.5 GB on 32 million of them."""
MAX_SCANS = 100
"""Of a JPEG; encoders make 1 to 10."""
MAX_EXIF_BYTES = 1 << 20
JPEG_SCALES = (2, 4, 8)
WHITE = (255, 255, 255, 255)
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
ORIENTATION = 0x0112
"""The EXIF tag."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BAND_PIXELS = 1 << 20
"""Pixels that are converted to RGB at once."""


def load_image(path: Path, side: int, resample: Resample = "bilinear") -> np.ndarray:
    """The picture at ``path`` as ``[side, side, 3]`` uint8, RGB; of an animation its first.

    Transparency is laid on white, as the processor does with a picture that has it. A JPEG of more than
    :data:`MAX_PIXELS` pixels is decoded at a half, a quarter or an eighth of its size first.

    Raises:
        MediaError: the file is missing, no regular file, no PNG, JPEG or WEBP, broken, empty, or too large to be
            decoded.
    """
    data = read_bytes(path, MAX_BYTES, MediaError)
    scans = jpeg.scans(data) if data.startswith(jpeg.START) else jpeg.Scans(1, False)
    if scans.number > MAX_SCANS:
        raise MediaError(f"{path.name} has {scans.number} scans, a JPEG is read up to {MAX_SCANS}: export it again")
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures, which are bounded below, and of each damaged field, as many as there are.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                return _decode(path, picture, side, resample, scans.buffered)
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise MediaError(f"{path.name} is too large ({error}): scale it down first") from None
    except Image.UnidentifiedImageError:
        raise MediaError(f"{path.name} is not a PNG, JPEG or WEBP image: convert it first") from None
    except MemoryError:
        raise MediaError(f"{path.name} takes more memory than there is: scale it down first") from None
    except Exception as error:  # Pillow's readers raise whatever their parsing of broken data runs into.
        why = printable_line(str(error))[:200] or type(error).__name__
        raise MediaError(f"{path.name} is a broken image ({why}): copy or export it again") from None


def require_side(image: np.ndarray, sides: Collection[int]) -> int:
    """The side of ``image [S, S, 3]``, which must be one of ``sides``; :class:`EngineError` for any other shape."""
    side = image.shape[0]
    if image.shape != (side, side, 3) or side not in sides:
        shown = ", ".join(str(s) for s in sides)
        raise EngineError(f"an image of shape {list(image.shape)} was given, the tower takes squares of {shown}")
    return int(side)


def png(image: np.ndarray) -> bytes:
    """``image [H, W, 3]`` uint8 as a PNG file."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG", compress_level=1)
    return out.getvalue()


def _decode(path: Path, picture: Image.Image, side: int, resample: Resample, buffered: bool) -> np.ndarray:
    width, height = picture.size
    if not width or not height:
        raise MediaError(f"{path.name} has {width} x {height} pixels: it is empty")
    if max(width, height) > MAX_SIDE:
        raise MediaError(
            f"{path.name} has {width} x {height} pixels, a side is read up to {MAX_SIDE:,}: cut it or scale it down"
        )
    if width * height > MAX_PIXELS:
        _shrink_while_decoding(path, picture, buffered)
    picture.load()
    turn = TURNS.get(_orientation(path, picture))
    return np.asarray(
        _rgb(picture if turn is None else picture.transpose(turn)).resize((side, side), FILTERS[resample])
    )


def _shrink_while_decoding(path: Path, picture: Image.Image, buffered: bool) -> None:
    width, height = picture.size
    kind = f"{picture.format} images" if not buffered else "progressive JPEG images"
    # A photo with others behind it, such as a map of its highlights, is of Pillow's format MPO.
    for scale in JPEG_SCALES if isinstance(picture, JpegImageFile) and not buffered else ():
        if (width // scale + 1) * (height // scale + 1) <= MAX_PIXELS:
            picture.draft("RGB", (width // scale, height // scale))
            return
    raise MediaError(
        f"{path.name} has {width} x {height} pixels, {kind} are read up to {MAX_PIXELS:,} pixels: scale it down first"
    )


def _orientation(path: Path, picture: Image.Image) -> int:
    size = max((len(picture.info.get(key, "")) for key in ("exif", "Raw profile type exif")), default=0)
    if size > MAX_EXIF_BYTES:
        raise MediaError(f"{path.name} has {size} bytes of EXIF, at most {MAX_EXIF_BYTES} are read: export it again")
    found = picture.getexif().get(ORIENTATION, 1)
    return found if isinstance(found, int) else 1


def _rgb(picture: Image.Image) -> Image.Image:
    """``picture`` on white, converted some rows at a time, so that no second copy of all of it is needed."""
    if picture.mode == "RGB" and picture.info.get("transparency") is None:
        return picture
    width, height = picture.size
    whole = Image.new("RGB", picture.size)
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):
        whole.paste(_rgb_band(picture.crop((0, top, width, min(top + rows, height)))), (0, top))
    return whole


def _rgb_band(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        # Pillow would clip 16 bits to 8 instead of scaling them.
        values = np.asarray(picture).astype(np.float64)
        return Image.fromarray(np.round(np.clip(values, 0, 65535) / 257).astype(np.uint8)).convert("RGB")
    if "A" in picture.getbands() or picture.info.get("transparency") is not None:
        upper = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", upper.size, WHITE), upper).convert("RGB")
    return picture.convert("RGB")
