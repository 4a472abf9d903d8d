"""Videos made for tests."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

SOUND_RATE = 16_000


def write_clip(
    path: Path,
    pictures: Sequence[np.ndarray] = (),
    sound: np.ndarray | None = None,
    *,
    seconds_each: float = 1.0,
    rate: int = 10,
    codec: str = "libx264",
    sound_codec: str = "aac",
    rotation: int | None = None,
) -> Path:
    """A video that shows each of ``pictures [H, W, 3]`` for some seconds, with ``sound [n]`` at 16 kHz."""
    with av.open(str(path), "w") as container:
        shown = _pictures_stream(container, pictures[0], codec, rate, rotation) if pictures else None
        heard: Any = container.add_stream(sound_codec, rate=SOUND_RATE) if sound is not None else None
        if heard is not None:
            heard.layout = "mono"
        if shown is not None:
            frames = [p for p in pictures for _ in range(round(rate * seconds_each))]
            for at, picture in enumerate(frames):
                drawn = av.VideoFrame.from_ndarray(picture, format="rgb24")
                drawn.pts, drawn.time_base = at, Fraction(1, rate)
                container.mux(shown.encode(drawn))
            container.mux(shown.encode())
        if heard is not None and sound is not None:
            frame = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, 0, Fraction(1, SOUND_RATE)
            container.mux(heard.encode(frame))
            container.mux(heard.encode())
    return path


def _pictures_stream(container: Any, picture: np.ndarray, codec: str, rate: int, rotation: int | None) -> Any:
    stream = container.add_stream(codec, rate=rate)
    stream.height, stream.width = picture.shape[:2]
    stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    if rotation is not None:
        stream.set_display_rotation(rotation)
    return stream


def grey(level: int, height: int = 64, width: int = 96) -> np.ndarray:
    """A picture ``[height, width, 3]`` of one grey."""
    return np.full((height, width, 3), level, np.uint8)
