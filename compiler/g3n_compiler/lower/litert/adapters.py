"""What a bundle that takes adapters while it runs has beside its model, and how its inputs are filled.

Before weights are rounded, each owner's values are rotated, and the outputs that read them are rotated back. An adapter
was trained for the weights as they were, so what it adds to them must be rotated alike. The rotations come out of an
eigenvalue decomposition, whose last bits depend on the machine; so the bundle has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor

from g3n_compiler.lower.artifact import Files, LoweredFile
from g3n_compiler.lower.litert.adapter_file import write_adapter_file
from g3n_compiler.lower.litert.opened import OpenedLayers, OpenedTextModel
from g3n_compiler.lower.opened import LayeredModel, TextModel
from g3n_compiler.lower.signatures.lora import input_names, lora_inputs
from g3n_compiler.lower.subgraphs import Runtime
from g3n_compiler.models.gemma3n.text_config import TextConfig, gemma3n_config
from g3n_compiler.models.registry import text_weights
from g3n_compiler.models.weights import Adapted
from g3n_compiler.rewrite.apply import Rewrite, Rewrites
from g3n_compiler.source import Source
from g3n_runtime.litert.lora import NO_ADAPTER, TURNS

if TYPE_CHECKING:
    from g3n_compiler.lower.job import Job
    from g3n_compiler.models.shape import TextShape

NO_ADAPTER_STEP = "no-adapter.tflite"
TURNS_STEP = "turns.safetensors"
ANY_BUNDLE = "any"
"""What the file without an adapter says instead of a bundle: its own hash is in the manifest."""


def lower_adapters(job: Job) -> list[LoweredFile]:
    """The files of a bundle that takes adapters: what stands for none and, if weights were rotated, the rotations."""
    if not job.lora_rank:
        return []
    steps, files = job.steps, []

    def publish(step: str, name: str, role: str) -> None:
        steps.publish(step, job.directory / name)
        files.append(LoweredFile(name, role))

    pairs = lora_inputs(text_weights(job.config), job.lora_rank).values()
    none = {name: np.zeros(shape, np.float32) for pair in pairs for name, shape in pair.shapes.items()}
    steps.file(NO_ADAPTER_STEP, lambda path: write_adapter_file(path, none, job.lora_rank, ANY_BUNDLE))
    publish(NO_ADAPTER_STEP, f"{job.stem}-no-adapter.tflite", NO_ADAPTER)
    if job.source.rewrites is not None:
        turns = save(rotations(job.source))
        steps.file(TURNS_STEP, lambda path: _write(path, turns))
        publish(TURNS_STEP, f"{job.stem}-turns.safetensors", TURNS)
    return files


def rotations(source: Source) -> dict[str, Tensor]:
    """Rotations ``[kv_heads, D, D]`` float32 of each owner's values, by the names of the tensors in the whole model."""
    assert source.rewrites is not None
    found = {}
    for turn in source.family.turns(source.whole):
        rewrite = source.rewrites.tensors[turn.values]
        assert rewrite.turned_rows is not None
        found[turn.values] = rewrite.turned_rows.float().contiguous()
    for name in _attention(source.whole):
        rewrite = source.rewrites.tensors.get(name, Rewrite())
        if rewrite.rows is not None or rewrite.columns is not None:
            raise AssertionError(f"{name} is multiplied by factors, which adapters do not follow")
    return found


def rewrites_of(source: Source, path: Path) -> Rewrites:
    """The rotations in a file of :func:`rotations`, as rewrites of ``source``'s attention."""
    held, found = load_file(path), {}
    for turn in source.family.turns(source.whole):
        rotation = held[turn.values].double()
        columns = rotation.repeat_interleave(gemma3n_config(source.whole).num_heads // turn.kv_heads, 0)
        found[turn.values] = Rewrite(turned_rows=rotation)
        found |= {name: Rewrite(turned_columns=columns) for name in turn.outputs}
    return Rewrites(found)


def input_values(adapter: Mapping[str, Adapted], rank: int) -> dict[str, np.ndarray]:
    """The inputs of a graph of ``rank`` that an adapter fills, by name; a smaller adapter is padded with zeros."""
    values = dict[str, np.ndarray]()
    for name, (a, b) in adapter.items():
        names, missing = input_names(name), rank - a.shape[1]
        assert names is not None and missing >= 0, "who makes an adapter sees to its names and its rank"
        values |= dict(zip(names, (F.pad(a, (0, missing)).numpy(), F.pad(b, (0, 0, 0, missing)).numpy()), strict=True))
    return values


class LiteRtAdapted:
    """A bundle that :class:`.backend.LiteRtBackend` wrote, with an adapter, as verification opens it."""

    runtime: Runtime = "litert"

    def __init__(self, role: str, adapter: Mapping[str, Adapted], rank: int) -> None:
        self._role = role
        self._values = input_values(adapter, rank)

    def open_models(self, files: Files) -> Iterator[tuple[str, TextModel]]:
        yield "signatures with an adapter", OpenedTextModel(files[self._role], adapter=self._values)

    def open_layers(self, files: Files, config: TextConfig) -> dict[str, LayeredModel]:
        return {"layers with an adapter": OpenedLayers(files[self._role], config, adapter=self._values)}


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _attention(shape: TextShape) -> list[str]:
    return [spec.tensor for spec in text_weights(shape).values() if spec.role == "attention"]
