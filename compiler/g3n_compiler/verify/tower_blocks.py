"""Hold a quantised tower against the reference step by step, each step on the artifact's own inputs.

As :mod:`.layers` does with the decoder: rounding does not add up over the tower, so that the limit can be tight and a
fault is named by its place.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from g3n_compiler.lower.job import Job
from g3n_compiler.lower.opened import StreamTrace
from g3n_compiler.lower.subgraphs import Runtime, Subgraph
from g3n_compiler.models.gemma3n.audio import AudioEncoder, Clip, every
from g3n_compiler.models.gemma3n.audio_stream import (
    FRONT_STATE,
    Stream,
    by_clip,
    by_token,
    layer_state,
    state_shapes,
    subsample_step,
)
from g3n_compiler.models.gemma3n.vision import VisionEncoder
from g3n_compiler.verify.checks import Check, position_errors, relative_error
from g3n_compiler.verify.layers import DRAWS, JITTER, REACH, TYPICAL

Parts = tuple[tuple[str, float], ...]
Step = Callable[..., Tensor]
"""A step of the reference: its inputs -> its output, with an axis of length 1 before."""
Part = slice
"""The rows of an output that are compared."""
Measure = Callable[[np.ndarray, np.ndarray], float]
"""The error of rows ``[N, width]`` from those that were expected."""


class Sensitive(NamedTuple):
    """A step that answers a last bit of difference with more than the limit, see :mod:`.layers`."""

    own: float
    """What the reference itself moves by, when its input does by :data:`~g3n_compiler.verify.layers.JITTER`."""
    median: float
    """Error of half of the artifact's positions."""


@dataclass
class StepErrors:
    """The error of each step by its name, by default the largest relative one, and what the last step gave."""

    measure: Measure = relative_error
    limit: float = math.inf
    """Of a step that is off by more it is asked what the reference itself moves by."""
    errors: dict[str, float] = field(default_factory=dict)
    sensitive: dict[str, Sensitive] = field(default_factory=dict)
    result: np.ndarray = field(default_factory=lambda: np.empty(0))

    def hold(self, name: str, got: np.ndarray, step: Step, given: Sequence[Tensor], part: Part = slice(None)) -> None:
        """Compare ``got`` with what ``step`` makes of ``given``, or with a part of it."""
        want = step(*given)[0][part]
        error = self.add(name, got, want)
        if self.limit < error < math.inf:
            own = 0.0
            for draw in range(DRAWS):
                generator = torch.Generator().manual_seed(draw)
                moved = step(*(x * (1 + JITTER * torch.randn(x.shape, generator=generator)) for x in given))[0][part]
                own = max(own, self.measure(_rows(moved.numpy()), _rows(want.numpy())))
                if error <= REACH * own:
                    break
            median = float(np.median(position_errors(_rows(got), _rows(want.numpy()))))
            before = self.sensitive.get(name)
            if before is None or error >= self.errors[name]:
                self.sensitive[name] = Sensitive(own, median)

    def add(self, name: str, got: np.ndarray, want: Tensor) -> float:
        """Compare, row by row of the last dimension; of several results of one name the worst counts."""
        error = math.inf
        if got.shape == want.shape:
            error = self.measure(_rows(got), _rows(want.numpy()))
        self.errors[name] = max(error, self.errors.get(name, 0.0))
        return error

    @property
    def worst(self) -> float:
        return max(self.errors.values())

    @property
    def where(self) -> str:
        """Name of the worst."""
        return max(self.errors, key=lambda name: self.errors[name])


def step_checks(job: Job, subgraph: Subgraph, runtime: Runtime, what: str, found: StepErrors) -> Iterator[Check]:
    """What was ``found`` of a quantised tower as comparisons with the recipe's reference."""
    reference, limit = f"fake-quant {job.recipe.name}", job.recipe.layer_tolerance

    def check(name: str, metric: str, error: float, most: float, note: str, parts: Parts = ()) -> Check:
        return Check(f"{what}: {name}", subgraph, runtime, reference, metric, error, most, note, parts)

    steady = {name: error for name, error in found.errors.items() if name not in found.sensitive}
    where = max(steady, key=lambda name: steady[name], default="none")
    each, parts = f"each of {len(found.errors)} steps alone", tuple(found.errors.items())
    yield check(each, "relative error", steady.get(where, 0.0), limit, f"worst in {where}", parts)
    for name, (own, median) in found.sensitive.items():
        note = f"the reference moves by {own:.2g} when its input does by {JITTER:g}"
        yield check(f"{name} alone", "relative error", found.errors[name], REACH * own, note)
        half = "relative error of half of the positions"
        yield check(f"{name} alone", half, median, TYPICAL * limit, note)


def _rows(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, x.shape[-1])


@torch.no_grad()
def vision_errors(
    encoder: VisionEncoder,
    adapt: Callable[[Tensor], Tensor],
    image: np.ndarray,
    steps: Iterable[np.ndarray],
    found: StepErrors,
) -> None:
    """Find the errors of an artifact's ``steps`` over ``image [S, S, 3]``, see ``VisionModel``.

    Args:
        adapt: features ``[1, T, width]`` -> soft tokens and the end row ``[1, T + 1, hidden]``.
    """
    produced, layout = iter(steps), encoder.layout

    def hold(name: str, step: Step, *given: Tensor) -> Tensor:
        got = next(produced)
        found.hold(name, got[0], step, given)
        return torch.from_numpy(got)

    x = hold("the stem", encoder.stem, torch.from_numpy(image)[None])
    maps = []
    for stage in layout.stages:
        for block in stage:
            x = hold(block.name, functools.partial(encoder.block, block), x)
        maps.append(x)
    features = hold("the fusion", lambda *given: encoder.fuse(list(given)), *(maps[i] for i in layout.fused))
    found.result = next(produced)
    found.hold("the adapter", found.result, adapt, (features,))


class ClipSteps:
    """The encoder's steps over a clip, padded as in the artifact.

    Args:
        mel: the clip's log-mel frames ``[T, bins]`` float32.
    """

    def __init__(self, encoder: AudioEncoder, mel: np.ndarray) -> None:
        c, self._encoder = encoder.config, encoder
        longest = c.max_soft_tokens * c.frames_per_token
        padded, mask = torch.zeros(1, longest, mel.shape[1]), torch.zeros(1, longest)
        padded[0, : len(mel)], mask[:, : len(mel)] = torch.from_numpy(mel), 1
        half = every(mask, 2)
        quarter = every(half, 2)
        self.frames, self.tokens = int(quarter.sum()), c.soft_tokens(len(mel))
        self.front = encoder.subsample(padded, half, quarter, Clip())
        """Frames ``[1, N, hidden]`` before the first layer; only the first :attr:`frames` are the clip's."""
        self._hide, self._keep = encoder.attention_mask(quarter, Clip()), quarter.unsqueeze(-1)

    def layer(self, i: int, x: Tensor) -> Tensor:
        """The output of layer ``i``; the last one's are features, one for each soft token."""
        c = self._encoder.config
        kept = (c.reduction, 0) if i == c.num_layers - 1 else (1, 0)
        return self._encoder.layer(i, x, self._hide, self._keep, Clip(), kept)


@torch.no_grad()
def clip_errors(
    encoder: AudioEncoder,
    soft: Callable[[Tensor], Tensor],
    mel: np.ndarray,
    steps: Iterable[np.ndarray],
    found: StepErrors,
) -> None:
    """Find the errors of an artifact's ``steps`` over a clip, see ``AudioModel``, on the frames and tokens that it has.

    Args:
        soft: features ``[1, N, hidden]`` -> soft tokens ``[1, N, text_hidden]``.
        mel: the clip's log-mel frames ``[T, bins]`` float32.
    """
    produced, clip, last = iter(steps), ClipSteps(encoder, mel), encoder.config.num_layers - 1
    got = next(produced)
    found.add("the front end", got[: clip.frames], clip.front[0, : clip.frames])
    for i in range(last + 1):
        given = torch.from_numpy(got)[None]
        got = next(produced)
        part = slice(clip.tokens if i == last else clip.frames)
        found.hold(f"layer {i}", got[part], functools.partial(clip.layer, i), (given,), part)
    found.result = next(produced)
    found.hold("the adapter", found.result[: clip.tokens], soft, (torch.from_numpy(got[: clip.tokens])[None],))


@torch.no_grad()
def stream_errors(encoder: AudioEncoder, soft: Callable[[Tensor], Tensor], traces: Iterable[StreamTrace]) -> StepErrors:
    """Errors of the steps of a stream, the state that each leaves included."""
    c, found = encoder.config, StepErrors()
    for trace in traces:
        cut = next(cut for cut in (by_token(c), by_clip(c)) if cut.kept == trace.before[0].shape[1])
        names = list(state_shapes(c, cut))
        before = {name: torch.from_numpy(value) for name, value in zip(names, trace.before, strict=True)}
        after = dict(zip(names, trace.after, strict=True))
        stream = Stream(before)
        x, valid = subsample_step(encoder, torch.from_numpy(trace.mel), torch.from_numpy(trace.mask), stream)
        hide, keep = encoder.attention_mask(valid, stream), valid.unsqueeze(-1)
        name, states = "the front end", FRONT_STATE
        for i in range(c.num_layers):
            heard = valid[0].bool()
            found.add(name, trace.frames[i][0][heard], x[0][heard])
            _add_states(found, name, states, after, stream)
            last = i == c.num_layers - 1
            kept = (c.reduction, cut.first) if last else (1, 0)
            x = encoder.layer(i, torch.from_numpy(trace.frames[i]), hide, keep, stream, kept)
            name, states = f"layer {i}", layer_state(i)
        _add_states(found, name, states, after, stream)
        heard = every(valid, c.reduction, cut.first)[0].bool()
        found.add(f"{name} and the adapter", trace.tokens[: int(heard.sum())], soft(x)[0][heard])
    return found


def _add_states(
    found: StepErrors, name: str, states: Iterable[str], after: dict[str, np.ndarray], stream: Stream
) -> None:
    """Compare states row by row of a frame, zeros with zeros."""
    for state in states:
        got, want = after[state], stream.after[state]
        found.add(f"{name}, state {state}", got.reshape(1, -1), want.reshape(1, -1))
