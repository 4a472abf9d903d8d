"""Sound files as the audio encoder wants them: 16 kHz, one channel, float32, block by block at constant memory.

WAV, FLAC, OGG (Vorbis, Opus) and MP3 are decoded by libsndfile (``soundfile``), resampled by ``soxr``.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from g3n_runtime.errors import SoundError

RATE = 16_000
"""Samples a second that the model hears."""
CLIP_SECONDS = 30
"""Longest sound of one clip; only the streaming encoder takes more."""
MAX_CHANNELS = 8
RATES = range(1_000, 768_001)
BLOCK_SECONDS = 1
KNOWN = "WAV, FLAC, OGG and MP3 are read"
COUNTED = ("WAV", "WAVEX", "RF64", "FLAC", "AIFF")
"""Formats whose header counts the samples. A cut-off file of another kind is just a shorter sound."""
UNKNOWN_SIZE = (0, 0xFFFFFFFF)
"""What a recorder that wrote to a pipe leaves as a WAV's size."""


def read_clip(path: Path, seconds: float = CLIP_SECONDS) -> np.ndarray:
    """All of a sound, ``[N]`` float32 at 16 kHz.

    Raises:
        SoundError: as :func:`read_blocks`, or the sound is longer than ``seconds``.
    """
    blocks, count = [], 0
    for block in read_blocks(path):
        blocks.append(block)
        count += len(block)
        if count > seconds * RATE:
            raise SoundError(
                f"{path.name} lasts more than the {seconds:g} s of one clip: cut it, or use the streaming encoder"
            )
    return np.concatenate(blocks)


def read_blocks(path: Path) -> Iterator[np.ndarray]:
    """A sound of any length, ``[n]`` float32 at 16 kHz, about a second at a time; several channels are averaged.

    Raises:
        SoundError: the file is missing, empty, no sound, cut off, of an impossible shape, or holds NaNs.
    """
    try:
        file = soundfile.SoundFile(str(path))
    except (OSError, soundfile.LibsndfileError) as error:
        raise SoundError(_why_not(path, error)) from None
    with file:
        _check(path, file)
        resampler = None
        if file.samplerate != RATE:
            resampler = soxr.ResampleStream(file.samplerate, RATE, 1, dtype="float32")
        read = 0
        while True:
            try:
                block = file.read(BLOCK_SECONDS * file.samplerate, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise SoundError(f"{path.name} is damaged {_at(read, file)} ({error}): get the file again") from None
            read += len(block)
            last = len(block) < BLOCK_SECONDS * file.samplerate
            mono = to_mono(block, path.name)
            out = mono if resampler is None else resampler.resample_chunk(mono, last=last)
            if len(out):
                yield out
            if last:
                break
        if read < file.frames and file.format in COUNTED:
            raise SoundError(f"{path.name} is cut off {_at(read, file)} of {file.frames / file.samplerate:.2f} s")


def to_mono(samples: np.ndarray, name: str = "the sound") -> np.ndarray:
    """``[N]`` or ``[N, channels]`` -> ``[N]`` float32, the mean of the channels.

    Raises:
        SoundError: another shape, too many channels, or a sample that is NaN or infinite.
    """
    if samples.ndim not in (1, 2):
        raise SoundError(f"{name} has shape {list(samples.shape)}, expected [samples] or [samples, channels]")
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    if not 1 <= channels <= MAX_CHANNELS:
        raise SoundError(
            f"{name} has {channels} channels, expected 1 to {MAX_CHANNELS}: mix it down, or turn the array if it is "
            "[channels, samples]"
        )
    if not np.isfinite(samples).all():
        bad = int((~np.isfinite(samples)).sum())
        raise SoundError(f"{name} has {bad} samples that are NaN or infinite: record or export it again")
    mono = samples if samples.ndim == 1 else samples.mean(1, dtype=np.float32)
    return np.ascontiguousarray(mono, np.float32)


def wav(samples: np.ndarray) -> bytes:
    """``samples [n]`` float32 at 16 kHz as a WAV file that loses nothing."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, subtype="FLOAT", format="WAV")
    return buffer.getvalue()


def _check(path: Path, file: soundfile.SoundFile) -> None:
    if file.samplerate not in RATES:
        raise SoundError(
            f"{path.name} says {file.samplerate} samples a second, expected {RATES.start} to {RATES.stop - 1}"
        )
    if file.channels > MAX_CHANNELS:
        raise SoundError(f"{path.name} has {file.channels} channels, expected 1 to {MAX_CHANNELS}: mix it down")
    if file.frames == 0:
        raise SoundError(f"{path.name} holds no samples: is the recording empty?")
    with path.open("rb") as raw:
        head = raw.read(8)
    # libsndfile takes a WAV that ends early for one that is shorter.
    promised = int.from_bytes(head[4:8], "little")
    if head[:4] == b"RIFF" and promised not in UNKNOWN_SIZE and promised + 8 > path.stat().st_size + 1:
        raise SoundError(
            f"{path.name} is cut off: {path.stat().st_size} bytes of {promised + 8} are there; get the file again"
        )


def _why_not(path: Path, error: Exception) -> str:
    if not path.is_file():
        return f"{path} is not a file"
    if path.stat().st_size == 0:
        return f"{path.name} is empty (0 bytes), expected a sound: {KNOWN}"
    return f"{path.name} cannot be read as a sound ({str(error).rsplit(': ', 1)[-1].strip()}): {KNOWN}"


def _at(samples: int, file: soundfile.SoundFile) -> str:
    return f"after {samples / file.samplerate:.2f} s"
