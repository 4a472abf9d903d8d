"""The process that decodes a video: from the file on its stdin to pictures and sound on its stdout. Needs ``av``.

FFmpeg is told the container, and the only containers and codecs it may use; the limits below are set before it sees a
byte, and from then on the process can open no file and no connection, whatever a file refers to.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import logging
import os
import pkgutil
import sys
from dataclasses import dataclass, replace
from typing import IO, Any, NoReturn

import numpy as np

from g3n_runtime.errors import MediaError
from g3n_runtime.media.image import FILTERS, Resample
from g3n_runtime.media.video_tracks import FrameChoice, SoundTrack

MAX_PIXELS = 4096 * 2304
"""Of a frame; a decoder holds up to 17 of them, of up to 6 bytes a pixel."""
MAX_RATE = 1000
"""Frames a second on average, beyond which a file is no video."""
MEMORY = 3 << 30
DECODE_SECONDS = 300
"""Of one processor's time."""
TOLERANCE = 1.0
"""Seconds that a file may end before the end that it states."""
VIDEO_CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "h263", "mjpeg")
SOUND_CODECS = ("aac", "mp3", "opus", "vorbis", "flac", "alac", "amr_nb", "amr_wb")
PCM = ("pcm_u8", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_f32le")
DECODERS = ("libdav1d", "mp3float", "amrnb", "amrwb", "libopencore_amrnb", "libopencore_amrwb", "libvpx-vp9", "libopus")
"""Names of decoders that are not their codecs'."""
LIMITS = {
    "max_pixels": str(MAX_PIXELS),
    "threads": "1",
    "codec_whitelist": ",".join((*VIDEO_CODECS, *SOUND_CODECS, *PCM, *DECODERS)),
}
"""FFmpeg's options for whatever looks into a stream, and for the decoders."""


@dataclass(frozen=True)
class Ask:
    """What the process is asked for; see :class:`g3n_runtime.media.video.Wanted`."""

    name: str
    container: str
    rate: float
    most_frames: int
    most_silent: int
    sound_seconds: float
    side: int
    resample: Resample


@dataclass
class Found:
    """What there is of a video."""

    times: list[float]
    pictures: list[np.ndarray]
    sound: np.ndarray | None
    has_pictures: bool
    has_sound: bool
    cut_pictures: bool
    cut_sound: bool
    seconds: float | None
    complaint: str | None = None
    """The last of FFmpeg's errors that did not end the decoding: it goes on where a part of a file is damaged."""

    def write(self, out: IO[bytes]) -> None:
        """A line of JSON, then the pictures, then the samples."""
        samples = None if self.sound is None else len(self.sound)
        names = ("times", "has_pictures", "has_sound", "cut_pictures", "cut_sound", "seconds", "complaint")
        out.write(json.dumps({**{n: getattr(self, n) for n in names}, "samples": samples}).encode() + b"\n")
        for picture in self.pictures:
            out.write(np.ascontiguousarray(picture).data)
        if self.sound is not None:
            out.write(self.sound.astype("<f4").data)


def decode(file: IO[bytes], ask: Ask) -> Found:
    """What is asked for of the video that ``file`` holds.

    Raises:
        MediaError: it is no video, damaged, cut off or too large.
    """
    import av

    av.logging.set_level(av.logging.ERROR)
    logging.getLogger("libav").propagate = False
    logging.getLogger("libav").addHandler(logging.NullHandler())
    closed = {"format_whitelist": ask.container, "protocol_whitelist": "none", "max_streams": "64"}
    try:
        with av.open(file, format=ask.container, options=LIMITS | closed, io_open=_refuse) as container:
            found = _decode(container, ask)
            count, last = av.logging.get_last_error()
            return replace(found, complaint=f"{last[1]}: {last[2]}".strip()) if count and last else found
    except (MediaError, MemoryError):
        raise
    except Exception as error:  # PyAV raises each of FFmpeg's errors as a kind of its own, and Python's own.
        why = str(getattr(error, "strerror", None) or error)[:200] or type(error).__name__
        large = f", or has more than {MAX_PIXELS:,} pixels" if getattr(error, "errno", None) == errno.EINVAL else ""
        raise MediaError(
            f"{ask.name} is not a video that can be read, or is damaged{large} ({why}): get it again, or convert it"
        ) from None


def _decode(container: Any, ask: Ask) -> Found:
    pictures, sound = _stream(container, "video"), _stream(container, "audio")
    if pictures is None and sound is None:
        raise MediaError(f"{ask.name} has neither pictures nor sound: is it a video?")
    hears = sound is not None and ask.sound_seconds > 0
    most = ask.most_frames if hears else ask.most_silent
    sees = pictures is not None and most > 0
    limit = min(ask.sound_seconds, most / ask.rate) if sees else ask.sound_seconds
    track = SoundTrack(ask.name, limit)
    used = [s for s, wanted in ((pictures, sees), (sound, hears)) if wanted]
    for stream in used:
        _require_known(stream, ask.name)
        stream.codec_context.options = LIMITS
    found: list[tuple[float, np.ndarray]] = []
    ends = _walk(container, used, ask, FrameChoice(ask.rate, most), track, found)
    cut_pictures = ends.pop("cut", 0.0) > 0
    if not cut_pictures:
        _require_whole(container, used, ends, track, ask.name)
    if sees and not found:
        raise MediaError(f"{ask.name} holds no picture that can be decoded: get it again, or convert it")
    duration = container.duration
    return Found(
        [time for time, _ in found],
        [picture for _, picture in found],
        track.samples() if hears else None,
        pictures is not None,
        sound is not None,
        cut_pictures,
        track.is_cut,
        None if duration is None or duration < 0 else duration / 1e6,
    )


def _walk(
    container: Any,
    used: list[Any],
    ask: Ask,
    choice: FrameChoice[Any],
    track: SoundTrack,
    found: list[tuple[float, np.ndarray]],
) -> dict[str, float]:
    """Fill ``found`` and ``track``; returns where each kind of stream ended, and ``cut`` if pictures were left over."""
    import av

    convert = av.AudioResampler(format="fltp")
    origin = (container.start_time or 0) / 1e6
    ends: dict[str, float] = {}
    last, count = 0.0, 0
    waiting = {stream.type for stream in used}
    for packet in container.demux(*used):
        if packet.stream.type not in waiting:
            continue
        for frame in packet.decode():
            seconds = ends.get(packet.stream.type, 0.0) if frame.time is None else max(frame.time - origin, 0.0)
            if packet.stream.type == "audio":
                for part in convert.resample(frame):
                    track.push(seconds, part.sample_rate, part.to_ndarray())
                ends["audio"] = seconds + frame.samples / max(frame.sample_rate, 1)
                if track.is_cut:
                    waiting.discard("audio")
                continue
            count += 1
            last = _shown_for(frame, packet.stream)
            ends["video"] = seconds + last
            if count > MAX_RATE * (1 + seconds):
                raise MediaError(f"{ask.name} has more than {MAX_RATE} frames a second: convert it first")
            found += ((at, _picture(shown, ask)) for at, shown in choice.push(seconds, frame))
            if choice.is_cut:
                waiting.discard("video")
        if not waiting:
            break
    if count and "video" in waiting:
        found += ((at, _picture(shown, ask)) for at, shown in choice.end(last))
    if choice.is_cut:
        ends["cut"] = 1.0
    return ends


def _stream(container: Any, kind: str) -> Any:
    """The best stream of a kind; a picture that is attached to a sound, such as a cover, is none."""
    from av.stream import Disposition

    stream = container.streams.best(kind)
    return None if stream is None or Disposition.attached_pic in stream.disposition else stream


def _require_known(stream: Any, name: str) -> None:
    known = VIDEO_CODECS if stream.type == "video" else (*SOUND_CODECS, *PCM)
    what = "pictures" if stream.type == "video" else "sound"
    context = stream.codec_context
    codec = context.codec.canonical_name if context is not None else "something unknown"
    if codec not in known:
        raise MediaError(f"the {what} of {name} are coded as {codec}, read are {', '.join(known)}: convert it first")
    if stream.type == "video" and context.width * context.height > MAX_PIXELS:
        raise MediaError(
            f"{name} has {context.width} x {context.height} pixels, videos are read up to {MAX_PIXELS:,} pixels: "
            "scale it down first"
        )


def _require_whole(container: Any, used: list[Any], ends: dict[str, float], track: SoundTrack, name: str) -> None:
    """Refuse a file that ends well before the end that it states: FFmpeg takes it for one that is shorter."""
    if track.is_cut:
        ends.pop("audio", None)
    whole = container.duration / 1e6 if container.duration and len(used) == len(container.streams) else 0.0
    for stream in used:
        end = ends.get(stream.type)
        told = whole if stream.duration is None else float(stream.duration * stream.time_base)
        if end is None or (stream.duration is None and max(ends.values()) > end):
            continue
        if told - end > TOLERANCE:
            raise MediaError(f"{name} is cut off after {end:.2f} s of {told:.2f} s: get the file again")


def _shown_for(frame: Any, stream: Any) -> float:
    """Seconds for which a video's last frame is shown, as far as the file says."""
    if frame.duration and frame.time_base:
        return float(frame.duration * frame.time_base)
    return float(1 / stream.average_rate) if stream.average_rate else 0.0


def _picture(frame: Any, ask: Ask) -> np.ndarray:
    """A frame upright, as ``[side, side, 3]``, stretched to a square as the processor does it."""
    from PIL import Image

    if frame.is_corrupt:
        raise MediaError(f"{ask.name} is damaged at {frame.time or 0:.2f} s: get the file again")
    if frame.width * frame.height > MAX_PIXELS:
        raise MediaError(f"{ask.name} has {frame.width} x {frame.height} pixels, at most {MAX_PIXELS:,} are read")
    whole = Image.fromarray(frame.to_ndarray(format="rgb24"))
    square = np.asarray(whole.resize((ask.side, ask.side), FILTERS[ask.resample]))
    return np.rot90(square, round(frame.rotation / 90) % 4)


def _refuse(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise MediaError("the video refers to another file, which is not opened: convert it to a single file first")


def _import_all(package: str) -> None:
    """Import what ``package`` would import when it is needed, when no file can be opened any more."""
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        if not module.name.endswith(("__main__", "datasets")):
            importlib.import_module(module.name)


def _limit() -> None:
    """No more memory and time than a video needs, and no further file or connection."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CPU, (DECODE_SECONDS, DECODE_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    opened = os.dup(0)
    os.close(opened)
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened, opened))


def main(asked: str) -> None:
    """Answer on stdout; what stands there is :meth:`Found.write`'s, or a line with an ``error``."""
    ask = Ask(**json.loads(asked))
    out = sys.stdout.buffer
    with open(0, "rb", buffering=0, closefd=False) as file:
        _answer(ask, file, out)
    out.flush()


def _answer(ask: Ask, file: IO[bytes], out: IO[bytes]) -> None:
    try:
        try:
            _import_all("av")
            _import_all("soxr")
        except ModuleNotFoundError as error:
            raise MediaError(f"{error.name} is not installed, which videos need: pip install ./runtime_shims") from None
        _limit()
        decode(file, ask).write(out)
    except MediaError as error:
        out.write(json.dumps({"error": str(error)}).encode() + b"\n")
    except MemoryError:
        said = {"error": f"{ask.name} takes more memory than the {MEMORY >> 30} GiB allowed: scale it down first"}
        out.write(json.dumps(said).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1])
