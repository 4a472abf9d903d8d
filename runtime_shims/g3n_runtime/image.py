"""Picture files as the vision tower's input: decoded, turned upright and resized as the model's processor does it.

Reference: ``transformers`` ``load_image`` and ``SiglipImageProcessor``, which stretches the whole picture to a square.
Memory is bounded by :data:`MAX_PIXELS`, whatever the file claims.
"""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from g3n_runtime.errors import MediaError

Resample = Literal["bilinear", "bicubic"]
FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 32_000_000
"""Most pixels that are decoded at once (128 MB with transparency); a larger JPEG is shrunk while it is decoded."""
JPEG_SCALES = (2, 4, 8)
WHITE = (255, 255, 255, 255)
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def load_image(path: Path, side: int, resample: Resample = "bilinear") -> np.ndarray:
    """The picture at ``path`` as ``[side, side, 3]`` uint8, RGB.

    Transparency is laid on white, as the processor does with a picture that has it. A JPEG of more than
    :data:`MAX_PIXELS` pixels is decoded at a half, a quarter or an eighth of its size first.

    Raises:
        MediaError: the file is missing, no PNG, JPEG or WEBP, broken, empty, or too large to be decoded.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures; they are bounded below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as picture:
                return _decode(path, picture, side, resample)
    except FileNotFoundError:
        raise MediaError(f"{path} is missing: name an image file") from None
    except Image.DecompressionBombError as error:
        raise MediaError(f"{path.name} is too large ({error}): scale it down first") from None
    except Image.UnidentifiedImageError:
        raise MediaError(f"{path.name} is not a PNG, JPEG or WEBP image: convert it first") from None
    # What Pillow's decoders raise on broken data.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error) as error:
        raise MediaError(f"{path.name} is a broken image ({error}): copy or export it again") from None


def png(image: np.ndarray) -> bytes:
    """``image [H, W, 3]`` uint8 as a PNG file."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG", compress_level=1)
    return out.getvalue()


def _decode(path: Path, picture: Image.Image, side: int, resample: Resample) -> np.ndarray:
    width, height = picture.size
    if not width or not height:
        raise MediaError(f"{path.name} has {width} x {height} pixels: it is empty")
    if width * height > MAX_PIXELS:
        _shrink_while_decoding(path, picture)
    upright = ImageOps.exif_transpose(picture)
    return np.asarray(_rgb(upright).resize((side, side), FILTERS[resample]))


def _shrink_while_decoding(path: Path, picture: Image.Image) -> None:
    width, height = picture.size
    for scale in JPEG_SCALES if picture.format == "JPEG" else ():
        if (width // scale + 1) * (height // scale + 1) <= MAX_PIXELS:
            picture.draft("RGB", (width // scale, height // scale))
            return
    raise MediaError(
        f"{path.name} has {width} x {height} pixels, {picture.format} images are read up to {MAX_PIXELS:,} pixels: "
        "scale it down first"
    )


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        # Pillow would clip 16 bits to 8 instead of scaling them.
        values = np.asarray(picture).astype(np.float64)
        return Image.fromarray(np.round(np.clip(values, 0, 65535) / 257).astype(np.uint8)).convert("RGB")
    if "A" in picture.getbands() or picture.info.get("transparency") is not None:
        upper = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", upper.size, WHITE), upper).convert("RGB")
    return picture.convert("RGB")
