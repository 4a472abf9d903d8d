"""A bound tower run in steps, cut out of the very file that ships, for verification: see :mod:`.cuts`."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from g3n_compiler.lower.litert.container import extract
from g3n_compiler.lower.litert.partial_model import CutModel
from g3n_compiler.lower.opened import StreamTrace
from g3n_compiler.models.gemma3n.audio_stream import FRONT_STATE, layer_state
from g3n_runtime.media.mel import Step

STATE = "state_"


@contextlib.contextmanager
def cut_copy(path: Path, kind: str) -> Iterator[CutModel]:
    """Section ``kind`` of the ``.litertlm`` at ``path``, copied out to be cut for as long as this lasts."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".cut-") as folder:
        copy = Path(folder) / "model.tflite"
        extract(path, kind, copy)
        yield CutModel(copy)


def run_steps(
    model: CutModel, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]
) -> Iterator[Any]:
    """What is at each place that ``signature`` can be cut at, then its ``outputs`` by name."""
    values = dict(inputs)
    known: list[str] = []
    for name in model.between(signature):
        values[name] = model.piece(signature, known, [name])(values)[name]
        known.append(name)
        yield values[name]
    yield model.piece(signature, known, outputs)(values)


def run_stream(model: CutModel, signature: str, steps: Sequence[Step]) -> Iterator[StreamTrace]:
    """Every step of a stream, piece after piece: each piece takes all steps before the next is made."""
    between, shapes = model.between(signature), model.input_shapes(signature)
    of_layers = [[STATE + name for name in layer_state(i)] for i in range(len(between))]
    front = [STATE + name for name in FRONT_STATE]
    # A signature's own order is that of the names.
    order = [name for names in (front, *of_layers) for name in names]
    values: list[dict[str, np.ndarray]] = [{"mel": step.mel, "known": step.mask} for step in steps]
    after: list[dict[str, np.ndarray]] = [{} for _ in steps]
    ends = [*between, "soft_token"]
    for i, (name, own) in enumerate(zip(ends, [front, *of_layers], strict=True)):
        piece = model.piece(signature, between[:i], [name, *own])
        state = {n: np.zeros(shapes[n], np.float32) for n in own}
        for given, left in zip(values, after, strict=True):
            given |= state
            out = piece(given)
            state = {n: out[n] for n in own}
            left |= state
            given[name] = out[name]
    for given, left in zip(values, after, strict=True):
        frames = [given[name] for name in between]
        token = given["soft_token"][0, 0]
        yield StreamTrace(
            given["mel"], given["known"], [given[n] for n in order], frames, token, [left[n] for n in order]
        )
