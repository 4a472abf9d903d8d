"""Videos as the model takes them: pictures at chosen times, and the sound track, read in a process of their own.

What decodes (:mod:`g3n_runtime.media.video_decoder`) is given an open file, a bounded amount of memory and of the
processor's time, and can open nothing else; if a file ends it, that is an error like any other.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from g3n_runtime.errors import MediaError
from g3n_runtime.media.image import Resample, require_side
from g3n_runtime.media.sound import UNKNOWN_SIZE
from g3n_runtime.media.video_decoder import DECODE_SECONDS, Ask
from g3n_runtime.reading import open_regular, parse_json
from g3n_runtime.terminal import printable_line

Container = Literal["mov", "matroska", "avi"]
KNOWN = "MP4, MOV, 3GP, WebM, Matroska and AVI are read"
_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
"""Names with which a file of the kind of MP4 or QuickTime may begin, behind the first one's length."""


@dataclass(frozen=True)
class Frame:
    """A picture ``[side, side, 3]`` uint8, RGB, and the seconds after the video's start at which it is shown."""

    seconds: float
    image: np.ndarray

    @property
    def time(self) -> str:
        """The seconds as a prompt has them, ``00:07`` or ``01:02.5``."""
        minutes, seconds = divmod(round(self.seconds, 2), 60)
        return (
            f"{int(minutes):02d}:{f'{seconds:05.2f}'.rstrip('0').rstrip('.') if seconds % 1 else f'{int(seconds):02d}'}"
        )

    def at(self, side: int) -> np.ndarray:
        """The picture, which must have been read with ``side`` pixels."""
        require_side(self.image, (side,))
        return self.image


@dataclass(frozen=True)
class Video:
    """What is used of a video file.

    Attributes:
        frames: in their order; none if the file has no pictures or none were asked for.
        sound: ``[n]`` float32 at 16 kHz from the video's start; ``None`` if there is none or none was asked for.
        has_pictures, has_sound: what the file has, whatever was asked for.
        cut_pictures, cut_sound: there are more than were asked for.
        seconds: how long the file says that it is, if it does.
        complaint: what the decoder found wrong without giving up.
    """

    frames: tuple[Frame, ...] = ()
    sound: np.ndarray | None = None
    has_pictures: bool = True
    has_sound: bool = False
    cut_pictures: bool = False
    cut_sound: bool = False
    seconds: float | None = None
    complaint: str | None = None


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a video.

    Attributes:
        rate: pictures a second.
        most_frames: if the video has a sound that is wanted too; ``most_silent`` if not. 0 leaves pictures out.
        sound_seconds: of its sound, at most; 0 leaves it out.
        side, resample: how large the pictures become and how, as :func:`g3n_runtime.media.image.load_image` has it.
    """

    rate: float
    most_frames: int
    most_silent: int
    sound_seconds: float
    side: int = 768
    resample: Resample = "bilinear"


def read_video(path: Path, wanted: Wanted) -> Video:
    """What is ``wanted`` of the video at ``path``: the picture that is shown at each multiple of ``1 / rate`` seconds.

    Raises:
        MediaError: the file is missing, no video of a known kind, cut off, damaged, too large to be decoded, or has
            neither pictures nor sound.
    """
    with open_regular(path, MediaError) as file:
        ask = Ask(name=printable_line(path.name), container=_container(path, file), **asdict(wanted))
        return _received(_decoded(file, ask), ask)


def _container(path: Path, file: IO[bytes]) -> Container:
    head = os.pread(file.fileno(), 12, 0)
    if not head:
        raise MediaError(f"{path.name} is empty (0 bytes), expected a video: {KNOWN}")
    if head[4:8] in _ATOMS:
        return "mov"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if head.startswith(b"RIFF") and head[8:] == b"AVI ":
        # FFmpeg takes an AVI that ends early for one that is shorter.
        promised, size = int.from_bytes(head[4:8], "little"), os.fstat(file.fileno()).st_size
        if promised not in UNKNOWN_SIZE and promised + 8 > size + 1:
            raise MediaError(f"{path.name} is cut off: {size} bytes of {promised + 8} are there; get the file again")
        return "avi"
    raise MediaError(f"{path.name} does not begin like a video: {KNOWN}")


def _decoded(file: IO[bytes], ask: Ask) -> bytes:
    """What the decoder's process says of ``file``."""
    command = [sys.executable, "-P", "-m", "g3n_runtime.media.video_decoder", json.dumps(asdict(ask))]
    # The package may be found by a path that only this process has.
    paths = os.pathsep.join(os.path.abspath(p) for p in sys.path if p)  # noqa: PTH100
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, stdin=file, capture_output=True, env=environment, timeout=3 * DECODE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise MediaError(_too_slow(ask.name)) from None
    if done.returncode == 0:
        return done.stdout
    if done.returncode < 0:
        ended = signal.Signals(-done.returncode)
        if ended == signal.SIGXCPU:
            raise MediaError(_too_slow(ask.name))
        raise MediaError(
            f"{ask.name} ended the decoder by {ended.name}: it is damaged or made to do this, or memory ran out; get "
            "it again, or from where you trust"
        )
    said = printable_line(done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2])[:200]
    raise MediaError(f"{ask.name} could not be decoded ({said or f'exit code {done.returncode}'}): convert it first")


def _too_slow(name: str) -> str:
    return f"{name} takes more than {DECODE_SECONDS} s to decode: cut it, or scale it down first"


def _received(said: bytes, ask: Ask) -> Video:
    """The :class:`Video` of what the decoder wrote, whose lengths are checked."""
    line, _, data = said.partition(b"\n")
    head: dict[str, Any] = parse_json(line, f"what the decoder says of {ask.name}", MediaError)
    if "error" in head:
        raise MediaError(printable_line(str(head["error"])))
    times, samples = [float(t) for t in head["times"]], head["samples"]
    one = ask.side * ask.side * 3
    expected = len(times) * one + 4 * (samples or 0)
    if len(data) != expected or len(times) > max(ask.most_frames, ask.most_silent):
        raise MediaError(f"{ask.name} confused the decoder: {len(data)} bytes came, expected {expected}; get it again")
    pictures = np.frombuffer(data, np.uint8, len(times) * one).reshape(-1, ask.side, ask.side, 3)
    sound = None if samples is None else np.frombuffer(data, "<f4", samples, len(times) * one)
    return Video(
        tuple(Frame(t, picture) for t, picture in zip(times, pictures, strict=True)),
        sound,
        bool(head["has_pictures"]),
        bool(head["has_sound"]),
        bool(head["cut_pictures"]),
        bool(head["cut_sound"]),
        None if head["seconds"] is None else float(head["seconds"]),
        None if head["complaint"] is None else printable_line(str(head["complaint"]))[:200],
    )
