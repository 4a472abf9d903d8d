"""Run a bound tower block by block, directly from the file that ships, for verification: see :mod:`.partial_model`."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from g3n_compiler.lower.litert.container import extract
from g3n_compiler.lower.litert.partial_model import PartialModel
from g3n_compiler.lower.opened import StreamTrace
from g3n_compiler.lower.signatures.audio import FRONT_NAMES, layer_names
from g3n_runtime.litert.audio import LiteRtAudio
from g3n_runtime.litert.audio_names import ENDED, OVERLAPPED
from g3n_runtime.media.mel import OVERLAP, LogMel


@contextlib.contextmanager
def partial_copy(path: Path, kind: str) -> Iterator[PartialModel]:
    """Section ``kind`` of the ``.litertlm`` at ``path``, copied out so that it can be run in part while the context
    lasts.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".cut-") as folder:
        copy = Path(folder) / "model.tflite"
        extract(path, kind, copy)
        yield PartialModel(copy)


def run_blocks(
    model: PartialModel, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]
) -> Iterator[Any]:
    """Each layer output of ``signature``, then its ``outputs`` by name."""
    values = dict(inputs)
    known: list[str] = []
    for name in model.layer_outputs(signature):
        values[name] = model.partial(signature, known, [name])(values)[name]
        known.append(name)
        yield values[name]
    yield model.partial(signature, known, outputs)(values)


def run_stream(
    model: PartialModel, signature: str, audio: LiteRtAudio, sound: np.ndarray
) -> Iterator[tuple[StreamTrace, np.ndarray]]:
    """Every call of the encoder that takes a part of ``sound``, and its features ``[1, N, hidden]``.

    It runs block by block: each block processes all segments before the next block is built.
    """
    layer_outputs, shapes = model.layer_outputs(signature), model.input_shapes(signature)
    front = list(FRONT_NAMES.values())
    of_layers = [list(layer_names(i).values()) for i in range(len(layer_outputs))]
    # The signature's own order is alphabetical, which is not this one.
    order = [name for names in (front, *of_layers) for name in names]
    segments = list(audio.segments(sound))
    values = [{"segment_values": s.values, "segment_mask": s.mask} for s in segments]
    after: list[dict[str, np.ndarray]] = [{} for _ in segments]
    blocks = [[*front, ENDED, OVERLAPPED], *of_layers]
    ends = [*([name] for name in layer_outputs), ["features", "mask"]]
    for i, (names, own) in enumerate(zip(ends, blocks, strict=True)):
        piece = model.partial(signature, layer_outputs[:i], [*names, *own])
        state = {n: x for n, x in audio.empty_state().items() if n in own}
        for given, left in zip(values, after, strict=True):
            given |= state
            out = piece(given)
            state = {n: out[n] for n in own}
            left |= state
            given |= {n: out[n] for n in names}
    frames = segments[0].mask.shape[1] - OVERLAP
    mel = LogMel(shapes["prev_features"][2]).clip(sound)
    for k, (given, left) in enumerate(zip(values, after, strict=True)):
        part = mel[k * frames : (k + 1) * frames]
        padded, known = np.zeros((1, frames, mel.shape[1]), np.float32), np.zeros((1, frames), np.float32)
        padded[0, : len(part)], known[:, : len(part)] = part, 1
        tokens = audio.adapt(given["features"], given["mask"])[: np.flatnonzero(given["mask"])[-1] + 1]
        inputs = [given[name] for name in layer_outputs]
        trace = StreamTrace(padded, known, [given[n] for n in order], inputs, tokens, [left[n] for n in order])
        yield trace, given["features"]
