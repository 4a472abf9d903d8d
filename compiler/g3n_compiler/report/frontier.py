"""How good each slice of a checkpoint is for its bytes and its speed: held-out loss, measured, cached, in processes.

Losses are those of our decoder in float32, from each document's bos on. Speeds are of the same decoder generating token
by token on one thread, one slice after another: they rank slices, an engine is several times faster.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from g3n_compiler.checkpoint.identity import Inputs
from g3n_compiler.checkpoint.reader import note_texts
from g3n_compiler.durable import rename_durably, sync_file
from g3n_compiler.errors import SliceError
from g3n_compiler.lower.isolated import end_with_parent
from g3n_compiler.models.embedding_tables import embedding_weights
from g3n_compiler.models.published import dimensions
from g3n_compiler.models.registry import family_of, parameter_count, text_weights
from g3n_compiler.models.shape import TextShape
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.slice.elastic import plan_named
from g3n_compiler.slice.plan import Slice, plan_slice
from g3n_compiler.source import TEXT, Source
from g3n_compiler.verify.reference import Reference
from g3n_runtime.json_digest import has_right_digest, with_digest
from g3n_runtime.reading import read_json_object

TIMED_TOKENS, TIMED_RUNS = 24, 3
VERSION = 2
"""Of what is measured and how: results of another one are not taken from the cache."""
MAX_KNOWN_BYTES = 1 << 16

SAME_SPEED = 0.05
"""Speeds that are this close are the same: another run would rank them otherwise."""

Figures = tuple[Literal["nbytes", "loss", "speed"], ...]
Documents = tuple[tuple[int, ...], ...]
"""Ids of each document, bos first."""


@dataclass(frozen=True)
class Point:
    """One slice: loss in nats per token, bytes of its quantised weights, tokens per second of the float decoder."""

    name: str
    layers: int
    parameters: int
    nbytes: int
    loss: float
    speed: float

    def dominated_by(self, others: Sequence[Point], figures: Figures = ("nbytes", "loss", "speed")) -> bool:
        """Whether one of ``others`` is better in one of ``figures`` and worse in none; equal points are not."""
        return any(
            any(other._better(self, name) for name in figures)
            and not any(self._better(other, name) for name in figures)
            for other in others
        )

    def _better(self, other: Point, figure: str) -> bool:
        if figure == "speed":
            return self.speed > other.speed * (1 + SAME_SPEED)
        mine, theirs = getattr(self, figure), getattr(other, figure)
        return bool(mine < theirs)


class Measured(NamedTuple):
    """Nats per token, tokens per second."""

    loss: float
    speed: float


def nested_slices(config: TextShape, skippable: Sequence[int]) -> dict[str, Slice]:
    """The slices to look at where nobody named any.

    The published ones of a model that has some; else every number of first layers at half their FFN, with all layers
    and without those that the checkpoint was trained to do without.
    """
    published = family_of(config).published
    if dimensions(config) in published.made_from.get(published.slices_of, ()):
        return {name: plan_named(name, config) for name in published.slices}
    slices: dict[str, Slice] = {}
    for skip in dict.fromkeys(((), tuple(skippable))):
        kept = [i for i in range(config.num_layers) if i not in skip]
        without = "".join(f"-{i}" for i in skip)
        for halved in range(len(kept) + 1):
            dims = [config.ffn_dims[i] // (2 if at < halved else 1) for at, i in enumerate(kept)]
            names = {0: f"full{without}", len(kept): f"half{without}"}
            slices[names.get(halved, f"first-{halved}-half{without}")] = plan_slice(config, skip, dims)
    return slices


def measure(
    directory: Path,
    slices: Mapping[str, Slice],
    documents: Documents,
    recipe: Recipe,
    cache: Path,
    workers: int,
    progress: Callable[[str], None],
) -> list[Point]:
    """A point for each of ``slices``, those measured before from ``cache``.

    Raises:
        SliceError: there is no text to measure a loss on.
    """
    if not any(len(ids) > 1 for ids in documents):
        raise SliceError("no document has two tokens: there is nothing to predict, pass other --text")
    inputs = Inputs()
    note_texts(directory, inputs)
    source = Source.open(directory, modalities=(TEXT,))
    source.checkpoint.note(inputs)
    origin, config = json.dumps(source.checkpoint.sha256(), sort_keys=True), source.text
    source.close()
    keys = {name: _key(origin, plan, documents) for name, plan in slices.items()}
    cache.mkdir(parents=True, exist_ok=True)
    known = {name: value for name, key in keys.items() if (value := _known(cache / f"{key}.json")) is not None}
    missing = [name for name in slices if name not in known]
    progress(f"held-out loss of {len(missing)} slices, {len(slices) - len(missing)} known, {workers} processes")
    with ProcessPoolExecutor(
        max(1, min(workers, len(missing))), get_context("spawn"), end_with_parent, (os.getpid(),)
    ) as pool:
        losses = dict(zip(missing, pool.map(_loss, *_repeat(directory, slices, missing, documents)), strict=True))
    for name in missing:
        progress(f"speed of {name}")
        known[name] = Measured(losses[name], _speed(directory, slices[name], documents[0]))
        inputs.require_unchanged()
        _keep(cache / f"{keys[name]}.json", known[name])
    return [_point(name, slices[name], config, recipe, known[name]) for name in slices]


def _repeat(
    directory: Path, slices: Mapping[str, Slice], names: Sequence[str], documents: Documents
) -> tuple[list[Path], list[Slice], list[Documents]]:
    return [directory] * len(names), [slices[name] for name in names], [documents] * len(names)


def _point(name: str, plan: Slice, config: TextShape, recipe: Recipe, known: Measured) -> Point:
    shape = plan.apply(config)
    specs = (*text_weights(shape).values(), *embedding_weights(shape).values())
    nbytes = sum(recipe.scheme(spec).nbytes(spec.shape) for spec in specs)
    return Point(name, shape.num_layers, parameter_count(shape), nbytes, known.loss, known.speed)


def _key(origin: str, plan: Slice, documents: Documents) -> str:
    content = json.dumps([VERSION, origin, asdict(plan), documents, torch.__version__])
    return hashlib.sha256(content.encode()).hexdigest()


def _known(path: Path) -> Measured | None:
    """What was measured before; ``None`` if nothing was, or what is there is damaged."""
    try:
        found = read_json_object(path, SliceError, MAX_KNOWN_BYTES)
        loss, speed = found["loss"], found["speed"]
    except (SliceError, KeyError):
        return None
    whole = has_right_digest(found) and all(isinstance(value, float) for value in (loss, speed))
    return Measured(loss, speed) if whole else None


def _keep(path: Path, value: Measured) -> None:
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(with_digest(value._asdict())), encoding="utf-8")
    sync_file(partial)
    rename_durably(partial, path)


def _loss(directory: Path, plan: Slice, documents: Documents) -> float:
    """Nats per token; runs in a process of its own."""
    torch.set_num_threads(1)
    reference = Reference(Source.open(directory, plan, modalities=(TEXT,)))
    nats, count = 0.0, 0
    for ids in documents:
        if len(ids) > 1:
            logits = reference.logits(ids[:-1]).double()
            nats += float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum"))
            count += len(ids) - 1
    return nats / count


def _speed(directory: Path, plan: Slice, ids: Sequence[int]) -> float:
    """Tokens per second, the best of some runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        reference = Reference(Source.open(directory, plan, modalities=(TEXT,)))
        reference.greedy(ids[:4], 2)
        times = []
        for _ in range(TIMED_RUNS):
            start = time.perf_counter()
            reference.greedy(ids[:1], TIMED_TOKENS)
            times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return float(TIMED_TOKENS / np.min(times))
