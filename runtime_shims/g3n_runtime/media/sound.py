"""Sound files as the audio encoder wants them: 16 kHz, one channel, float32, block by block at constant memory.

WAV, AIFF, FLAC, OGG (Vorbis, Opus) and MP3 are decoded by libsndfile (``soundfile``), resampled by ``soxr``; what
begins like none of them never reaches libsndfile, which reads twenty formats more.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from g3n_runtime.errors import SoundError
from g3n_runtime.reading import open_regular
from g3n_runtime.terminal import printable_line

RATE = 16_000
"""Samples a second that the model hears."""
CLIP_SECONDS = 30
"""Longest sound of one clip."""
MAX_SECONDS = 5_243
"""Longest sound that is read: 32,768 soft tokens of 160 ms, the context of the largest Gemma 3n."""
MAX_CHANNELS = 8
LOUDEST = 2.0**31
"""Largest sample: that of 32-bit integers that were written as floats unscaled. Beyond, float32 would overflow."""
RATES = range(1_000, 768_001)
BLOCK_SECONDS = 1
KNOWN = "WAV, AIFF, FLAC, OGG and MP3 are read"
FORMATS = ("WAV", "WAVEX", "RF64", "AIFF", "FLAC", "OGG", "MP3")
COUNTED = ("WAV", "WAVEX", "RF64", "FLAC", "AIFF")
"""Formats whose header counts the samples. A cut-off file of another kind is just a shorter sound."""
UNKNOWN_FRAMES = 1 << 62
"""Where libsndfile cannot tell, it says the largest number that there is."""
UNKNOWN_SIZE = (0, 0xFFFFFFFF)
"""What a recorder that wrote to a pipe leaves as a WAV's size."""


def read_clip(path: Path, seconds: float = CLIP_SECONDS) -> np.ndarray:
    """All of a sound, ``[N]`` float32 at 16 kHz.

    Raises:
        SoundError: as :func:`read_blocks`, or the sound is longer than ``seconds``.
    """
    return np.concatenate(list(read_blocks(path, seconds, f"the {seconds:g} s of one clip: cut it")))


def read_sound(path: Path) -> np.ndarray:
    """As :func:`read_clip`, of up to :data:`MAX_SECONDS`."""
    return np.concatenate(list(read_blocks(path)))


def read_blocks(path: Path, seconds: float = MAX_SECONDS, why: str = "") -> Iterator[np.ndarray]:
    """A sound of up to ``seconds``, ``[n]`` float32 at 16 kHz, about a second at a time, at least one block.

    Several channels are averaged.

    Args:
        why: ends the message about a longer sound, ``lasts more than ...``.

    Raises:
        SoundError: the file is missing, empty, no sound, cut off, too long, of an impossible shape, or holds NaNs. A
            length that the header states is refused before anything is decoded.
    """
    too_long = SoundError(f"{path.name} lasts more than {why or f'the {seconds:g} s that are read: cut it'}")
    with open_regular(path, SoundError) as raw, _open(path, raw) as file:
        _check(path, raw, file)
        if file.frames < UNKNOWN_FRAMES and file.frames > seconds * file.samplerate:
            raise too_long
        resampler = None
        if file.samplerate != RATE:
            resampler = soxr.ResampleStream(file.samplerate, RATE, 1, dtype="float32")
        read = given = 0
        while True:
            try:
                block = file.read(BLOCK_SECONDS * file.samplerate, dtype="float32", always_2d=True)
            except Exception as error:  # soundfile has no one kind for what a decoder cannot read.
                raise SoundError(
                    f"{path.name} is damaged {_at(read, file)} ({_reason(error)}): get the file again"
                ) from None
            read += len(block)
            if read > seconds * file.samplerate:
                raise too_long
            last = len(block) < BLOCK_SECONDS * file.samplerate
            mono = to_mono(block, path.name)
            out = mono if resampler is None else resampler.resample_chunk(mono, last=last)
            given += len(out)
            if len(out):
                yield out
            if last:
                break
        if read < file.frames < UNKNOWN_FRAMES and file.format in COUNTED:
            raise SoundError(f"{path.name} is cut off {_at(read, file)} of {file.frames / file.samplerate:.2f} s")
        if not given:
            raise SoundError(f"{path.name} holds {read} samples, less than one at 16 kHz: is the recording empty?")


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
    if samples.size and (loudest := float(np.abs(samples).max())) > LOUDEST:
        raise SoundError(f"{name} has a sample of {loudest:.3g}, expected at most {LOUDEST:.3g}: scale it to 1")
    mono = samples if samples.ndim == 1 else samples.mean(1, dtype=np.float32)
    return np.ascontiguousarray(mono, np.float32)


def wav(samples: np.ndarray) -> bytes:
    """``samples [n]`` float32 at 16 kHz as a WAV file that loses nothing."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, subtype="FLOAT", format="WAV")
    return buffer.getvalue()


def wav_samples(content: bytes) -> int:
    """The number of samples in a file that :func:`wav` made."""
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        return int(file.frames)


def _open(path: Path, raw: BinaryIO) -> soundfile.SoundFile:
    head = os.pread(raw.fileno(), 12, 0)
    if not head:
        raise SoundError(f"{path.name} is empty (0 bytes), expected a sound: {KNOWN}")
    if not _begins_like_a_sound(head):
        raise SoundError(f"{path.name} does not begin like a sound: {KNOWN}")
    try:
        # By number: by a name, libsndfile would open the file again, and take `*.raw` for samples without a header.
        file = soundfile.SoundFile(raw.fileno(), closefd=False)
    except Exception as error:  # soundfile has no one kind for what a reader of headers runs into.
        raise SoundError(f"{path.name} cannot be read as a sound ({_reason(error)}): {KNOWN}") from None
    if file.format not in FORMATS:
        file.close()
        raise SoundError(f"{path.name} is a sound of the kind {file.format}: {KNOWN}")
    return file


def _begins_like_a_sound(head: bytes) -> bool:
    kinds = {b"RIFF": b"WAVE", b"RIFX": b"WAVE", b"RF64": b"WAVE", b"FORM": b"AIF", b"fLaC": b"", b"OggS": b""}
    kind = kinds.get(head[:4])
    if kind is not None:
        return head[8:].startswith(kind)
    # MP3: a tag before it, or a frame's eleven bits.
    return head[:3] == b"ID3" or (head[0] == 0xFF and head[1:2] >= b"\xe0")


def _check(path: Path, raw: BinaryIO, file: soundfile.SoundFile) -> None:
    if file.samplerate not in RATES:
        raise SoundError(
            f"{path.name} says {file.samplerate} samples a second, expected {RATES.start} to {RATES.stop - 1}"
        )
    if file.channels > MAX_CHANNELS:
        raise SoundError(f"{path.name} has {file.channels} channels, expected 1 to {MAX_CHANNELS}: mix it down")
    if file.frames <= 0:
        raise SoundError(f"{path.name} holds no samples: is the recording empty?")
    head, size = os.pread(raw.fileno(), 8, 0), os.fstat(raw.fileno()).st_size
    # libsndfile takes a WAV that ends early for one that is shorter.
    promised = int.from_bytes(head[4:8], "little")
    if head[:4] == b"RIFF" and promised not in UNKNOWN_SIZE and promised + 8 > size + 1:
        raise SoundError(f"{path.name} is cut off: {size} bytes of {promised + 8} are there; get the file again")


def _reason(error: Exception) -> str:
    return printable_line(str(error).rsplit(": ", 1)[-1].strip())[:200] or type(error).__name__


def _at(samples: int, file: soundfile.SoundFile) -> str:
    return f"after {samples / file.samplerate:.2f} s"
