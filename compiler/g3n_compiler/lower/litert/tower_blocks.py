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
from g3n_compiler.models.gemma3n.audio_stream import FRONT_STATE, layer_state
from g3n_runtime.media.mel import Step

STATE = "state_"


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


def run_stream(model: PartialModel, signature: str, steps: Sequence[Step]) -> Iterator[StreamTrace]:
    """Every step of a stream, block by block: each block processes all steps before the next block is built."""
    layer_outputs, shapes = model.layer_outputs(signature), model.input_shapes(signature)
    of_layers = [[STATE + name for name in layer_state(i)] for i in range(len(layer_outputs))]
    front = [STATE + name for name in FRONT_STATE]
    # The signature's own order is alphabetical, which is not this one.
    order = [name for names in (front, *of_layers) for name in names]
    values: list[dict[str, np.ndarray]] = [{"mel": step.mel, "known": step.mask} for step in steps]
    after: list[dict[str, np.ndarray]] = [{} for _ in steps]
    ends = [*layer_outputs, "soft_token"]
    for i, (name, own) in enumerate(zip(ends, [front, *of_layers], strict=True)):
        piece = model.partial(signature, layer_outputs[:i], [name, *own])
        state = {n: np.zeros(shapes[n], np.float32) for n in own}
        for given, left in zip(values, after, strict=True):
            given |= state
            out = piece(given)
            state = {n: out[n] for n in own}
            left |= state
            given[name] = out[name]
    for given, left in zip(values, after, strict=True):
        frames = [given[name] for name in layer_outputs]
        token = given["soft_token"][0, 0]
        yield StreamTrace(
            given["mel"], given["known"], [given[n] for n in order], frames, token, [left[n] for n in order]
        )
